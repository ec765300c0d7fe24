"""Level Zero Sysman of the simulated devices: pyzes with its real types, its functions answered by the simulation.

A server finds it in place of the real package when this folder is on PYTHONPATH. Counters of energy and of busy time
run at the rates that the simulation's telemetry names; a value of None there is an error here.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock


def _real() -> ModuleType:
    """The real package, loaded without the driver's library, which is not here."""
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]
    spec = importlib.machinery.PathFinder.find_spec("pyzes", others)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(ctypes, "CDLL"):
        spec.loader.exec_module(module)
    return module


class _Counter:
    """A total that grows at a rate of so much a second, which changes between readings."""

    def __init__(self) -> None:
        self._total = 0.0
        self._read_at = time.monotonic()

    def read(self, rate: float) -> tuple[int, int]:
        """The total, and the microseconds at which it was read."""
        now = time.monotonic()
        self._total += rate * (now - self._read_at)
        self._read_at = now
        return int(self._total), int(now * 1e6)


class _Driver:
    """One driver with the devices of the simulation; handles are positions plus one."""

    def __init__(self, zes: Any) -> None:
        self._zes = zes
        self._counters: dict[tuple[str, int], _Counter] = {}

    def install(self) -> None:
        for name in dir(self):
            if name.startswith("zes"):
                setattr(self._zes, name, getattr(self, name))

    def zesInit(self, _flags: int) -> int:
        return 0

    def zesDriverGet(self, count: Any, handles: Any) -> int:
        return _list(count, handles, [1])

    def zesDeviceGet(self, _driver: Any, count: Any, handles: Any) -> int:
        return _list(count, handles, [index + 1 for index in range(len(_devices()))])

    def zesDeviceGetProperties(self, handle: Any, properties: Any) -> int:
        extension = ctypes.cast(properties._obj.pNext, ctypes.POINTER(self._zes.zes_device_ext_properties_t)).contents
        device = _device(handle)
        extension.uuid.id[:] = bytes.fromhex(device.uuid.replace(" ", ""))
        extension.flags = 1 if device.integrated else 0
        return 0

    def zesDevicePciGetProperties(self, handle: Any, properties: Any) -> int:
        properties._obj.address.bus = 0xF0 + handle.value  # not what torch says: devices are found by their UUID
        return 0

    def zesDeviceEnumMemoryModules(self, device: Any, count: Any, handles: Any) -> int:
        return _list(count, handles, [device.value])

    zesDeviceEnumEngineGroups = zesDeviceEnumMemoryModules
    zesDeviceEnumTemperatureSensors = zesDeviceEnumMemoryModules
    zesDeviceEnumPowerDomains = zesDeviceEnumMemoryModules
    zesDeviceEnumFrequencyDomains = zesDeviceEnumMemoryModules

    def zesMemoryGetProperties(self, handle: Any, properties: Any) -> int:
        properties._obj.location = self._zes.ZES_MEM_LOC_DEVICE
        properties._obj.physicalSize = _device(handle).total_bytes
        return 0

    def zesMemoryGetState(self, handle: Any, state: Any) -> int:
        import torch

        device = _device(handle)
        used_bytes = device.other_process_bytes + torch.xpu.memory_reserved(handle.value - 1)
        state._obj.size, state._obj.free = device.total_bytes, device.total_bytes - used_bytes
        return 0

    def zesEngineGetProperties(self, _handle: Any, properties: Any) -> int:
        properties._obj.type = self._zes.ZES_ENGINE_GROUP_COMPUTE_ALL
        return 0

    def zesEngineGetActivity(self, handle: Any, stats: Any) -> int:
        percent = _device(handle).telemetry.utilization_percent
        return self._count("busy", handle, percent and percent * 1e4, stats, "activeTime")

    def zesTemperatureGetProperties(self, _handle: Any, properties: Any) -> int:
        properties._obj.type = self._zes.ZES_TEMP_SENSORS_GPU
        return 0

    def zesTemperatureGetState(self, handle: Any, celsius: Any) -> int:
        return self._answer(celsius, "value", _device(handle).telemetry.temperature_c)

    def zesPowerGetProperties(self, _handle: Any, _properties: Any) -> int:
        return 0

    def zesPowerGetEnergyCounter(self, handle: Any, counter: Any) -> int:
        watts = _device(handle).telemetry.power_draw_w
        return self._count("energy", handle, watts and watts * 1e6, counter, "energy")

    def zesFrequencyGetProperties(self, _handle: Any, properties: Any) -> int:
        properties._obj.type = self._zes.ZES_FREQ_DOMAIN_GPU
        return 0

    def zesFrequencyGetState(self, handle: Any, state: Any) -> int:
        return self._answer(state, "actual", _device(handle).telemetry.clock_rate_mhz)

    def _answer(self, reference: Any, field: str, value: float | None) -> int:
        if value is None:
            return int(self._zes.ZE_RESULT_ERROR_NOT_AVAILABLE)
        setattr(reference._obj, field, value)
        return 0

    def _count(self, kind: str, handle: Any, rate: float | None, reference: Any, field: str) -> int:
        if rate is None:
            return int(self._zes.ZE_RESULT_ERROR_NOT_AVAILABLE)
        counter = self._counters.setdefault((kind, handle.value), _Counter())
        total, reference._obj.timestamp = counter.read(rate)
        return self._answer(reference, field, total)


def _devices() -> Any:
    from tests import xpu_sim

    return xpu_sim.current().devices


def _device(handle: Any) -> Any:
    return _devices()[handle.value - 1]


def _list(count: Any, handles: Any, values: list[int]) -> int:
    count._obj.value = len(values)
    if handles is not None:
        for position, value in enumerate(values):
            handles[position] = type(handles[position])(value)
    return 0


_module = _real()
_Driver(_module).install()
sys.modules[__name__] = _module
