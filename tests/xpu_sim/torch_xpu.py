"""`torch.xpu` on the simulated devices.

PyTorch's own `torch/xpu/*.py` runs unchanged: a CPU build lacks only the `torch._C._xpu_*` names
under it. They are supplied here and the package is executed again, now as in an XPU build.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from .config import Device, Telemetry

SYCL_VERSION = "20260000"


class _XpuDeviceProperties:
    """The attributes of an XPU build's class of this name, for one simulated device."""

    def __init__(self, device: Device) -> None:
        self.name = device.name
        self.platform_name = "Intel(R) oneAPI Unified Runtime over Level-Zero"
        self.vendor = "Intel(R) Corporation"
        self.device_id = device.device_id
        self.driver_version = device.driver_version
        self.version = "20.1.0"
        self.type = "gpu"
        self.uuid = uuid.UUID(hex=device.uuid.replace(" ", ""))
        self.architecture = device.architecture
        self.total_memory = device.total_bytes
        self.max_compute_units = device.compute_units
        self.gpu_eu_count = device.compute_units
        self.gpu_subslice_count = max(1, device.compute_units // 8)
        self.max_work_group_size = 1024
        self.max_num_sub_groups = 64
        self.sub_group_sizes = [16, 32]
        self.local_mem_size = 64 << 10
        self.last_level_cache_size = 18 << 20
        self.memory_clock_rate = 2375
        self.memory_bus_width = 192
        self.has_fp16 = device.has_fp16
        self.has_fp64 = device.has_fp64
        self.has_atomic64 = True
        self.has_bfloat16_conversions = device.has_bf16
        self.has_subgroup_matrix_multiply_accumulate = device.has_xmx
        self.has_subgroup_matrix_multiply_accumulate_tensor_float32 = device.has_xmx
        self.has_subgroup_2d_block_io = device.has_xmx
        self.is_integrated_gpu = device.integrated

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in vars(self).items())
        return f"_XpuDeviceProperties({shown})"


class _XpuStreamBase(torch.Stream):
    def __new__(cls, priority: int = 0, **kwargs: Any) -> _XpuStreamBase:
        if "stream_id" in kwargs:
            return super().__new__(cls, **kwargs)
        index = torch._C._xpu_getDevice()
        return super().__new__(cls, device=f"xpu:{index}", priority=priority)

    @property
    def sycl_queue(self) -> int:
        return int(self.stream_id)

    @staticmethod
    def priority_range() -> tuple[int, int]:
        return (1, -1)


class _XpuEventBase(torch.Event):
    _elapsed_ms: Callable[[int, int], float]
    _timed: bool

    def __new__(cls, enable_timing: bool = False) -> _XpuEventBase:
        event = super().__new__(cls, device="xpu", enable_timing=enable_timing)
        event._timed = enable_timing
        return event

    @property
    def sycl_event(self) -> int:
        return int(self.event_id)

    def elapsed_time(self, other: Any) -> float:
        """The inherited method takes exact torch.Event objects only."""
        if not (self._timed and other._timed):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'.")
        if not (self.event_id and other.event_id):
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return self._elapsed_ms(self.event_id, other.event_id)


class _Unsupported:
    """Stands for the classes of graph capture and memory pools, which are not simulated."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        _unsupported()


def _unsupported(*args: object, **kwargs: object) -> NoReturn:
    raise NotImplementedError("The simulated XPU has no graph capture, memory pools or custom allocators.")


def install(core: Any, devices: Callable[[], tuple[Device, ...]]) -> None:
    """Make `torch.xpu` answer for the extension's devices.

    Args:
        core: the loaded extension.
        devices: returns the devices as they are configured at the moment of the call.
    """
    _XpuEventBase._elapsed_ms = staticmethod(core.elapsed_ms)
    for name, value in _names(core, devices).items():
        setattr(torch._C, name, value)
    torch._C._has_xpu = True
    torch.version.xpu = SYCL_VERSION
    torch.__version__ = type(torch.__version__)(torch.__version__.split("+")[0] + "+xpu")
    torch.version.__version__ = str(torch.__version__)
    for name in ("streams", "graphs", "memory", "random"):
        importlib.reload(importlib.import_module(f"torch.xpu.{name}"))
    importlib.reload(torch.xpu)
    torch.xpu.memory = importlib.reload(importlib.import_module("torch.xpu.memory"))
    for name, function in _telemetry(core, devices).items():
        setattr(torch.xpu, name, function)


def _names(core: Any, devices: Callable[[], tuple[Device, ...]]) -> dict[str, Any]:
    def initialise() -> None:
        torch.xpu.default_generators = tuple(core.default_generator(index) for index in range(core.device_count()))
        torch.xpu._get_device_properties = lambda index: _XpuDeviceProperties(devices()[index])  # type: ignore[attr-defined]

    def set_stream(stream_id: int, device_index: int, device_type: int) -> None:
        torch._C._accelerator_setStream(
            torch.Stream(stream_id=stream_id, device_index=device_index, device_type=device_type)
        )

    return {
        "_XpuDeviceProperties": _XpuDeviceProperties,
        "_XpuStreamBase": _XpuStreamBase,
        "_XpuEventBase": _XpuEventBase,
        "_XPUGraph": _Unsupported,
        "_XPUMemPool": _Unsupported,
        "_xpu_XPUAllocator": _Unsupported,
        "_xpu_graph_pool_handle": _unsupported,
        "_xpu_isCurrentStreamCapturing": lambda: False,
        "_xpu_customAllocator": _unsupported,
        "_xpu_changeCurrentAllocator": _unsupported,
        "_xpu_beginAllocateCurrentThreadToPool": _unsupported,
        "_xpu_endAllocateToPool": _unsupported,
        "_xpu_releasePool": _unsupported,
        "_xpu_getAllocator": _unsupported,
        "_xpu_memorySnapshot": _unsupported,
        "_xpu_recordMemoryHistory": _unsupported,
        "_xpu_getStreamFromExternal": _unsupported,
        "_xpu_init": initialise,
        "_xpu_isInBadFork": lambda: False,
        "_xpu_getDeviceCount": core.device_count,
        "_xpu_getDevice": core.current_device,
        "_xpu_setDevice": core.exchange_device,
        "_xpu_exchangeDevice": lambda index: core.exchange_device(index) if index >= 0 else -1,
        "_xpu_maybeExchangeDevice": lambda index: core.exchange_device(index) if index >= 0 else -1,
        "_xpu_canDeviceAccessPeer": lambda device, peer: device == peer,
        "_xpu_setStream": set_stream,
        "_xpu_getCurrentStream": core.current_stream,
        "_xpu_getCurrentRawStream": lambda device: core.current_stream(device)[0],
        "_xpu_synchronize": core.synchronize,
        "_xpu_emptyCache": core.empty_cache,
        "_xpu_memoryStats": core.memory_stats,
        "_xpu_resetPeakMemoryStats": core.reset_peak,
        "_xpu_resetAccumulatedMemoryStats": core.reset_accumulated,
        "_xpu_getMemoryInfo": core.memory_info,
        "_xpu_getMemoryFraction": core.memory_fraction,
        "_xpu_setMemoryFraction": core.set_memory_fraction,
        "_xpu_getArchFlags": lambda: "pvc,bmg,dg2,arl-h,mtl-h,lnl-m,ptl-h,ptl-u",
    }


def _telemetry(core: Any, devices: Callable[[], tuple[Device, ...]]) -> dict[str, Callable[..., Any]]:
    """The functions that read Level Zero Sysman, which is not there."""

    def sensor(field: str, what: str) -> Callable[..., float]:
        def read(device: Any = None) -> float:
            index = torch.xpu._utils._get_device_index(device, optional=True)
            value = getattr(_telemetry_of(devices(), index), field)
            if value is None:
                raise RuntimeError(
                    f"GPU {what} querying is not available. Try running with elevated privileges (e.g. sudo)."
                )
            return float(value)

        return read

    def device_memory_used(device: Any = None) -> int:
        index = torch.xpu._utils._get_device_index(device, optional=True)
        if not _telemetry_of(devices(), index).device_memory_used:
            raise RuntimeError(
                "GPU memory usage querying is not available. Try running with elevated privileges (e.g. sudo)."
            )
        reserved = core.memory_stats(index)["reserved_bytes"]["all"]["current"]
        return int(reserved + devices()[index].other_process_bytes)

    return {
        "temperature": sensor("temperature_c", "temperature"),
        "clock_rate": sensor("clock_rate_mhz", "clock rate"),
        "power_draw": sensor("power_draw_w", "power draw"),
        "utilization": sensor("utilization_percent", "utilization"),
        "memory_usage": sensor("memory_usage_percent", "memory bandwidth usage"),
        "device_memory_used": device_memory_used,
    }


def _telemetry_of(devices: tuple[Device, ...], index: int) -> Telemetry:
    if index >= len(devices):
        raise RuntimeError(
            f"The device {index} is out of range for Level Zero Sysman. It must be in the range [0, {len(devices)})."
        )
    return devices[index].telemetry
