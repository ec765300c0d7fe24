"""Level Zero Sysman as a source, through Intel's package `pyzes`; devices are found by UUID or PCI address.

Reads counters and forms rates from one sample to the next, so nothing here sleeps (torch's own functions do).
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from ..machine.devices import Device
from .pci import pci_address_of, plain_uuid
from .readings import MemoryReading, Rate, Unavailable

_ENGINE_GROUPS = {
    "ZES_ENGINE_GROUP_ALL": "all",
    "ZES_ENGINE_GROUP_COMPUTE_ALL": "compute",
    "ZES_ENGINE_GROUP_RENDER_ALL": "render",
    "ZES_ENGINE_GROUP_COPY_ALL": "copy",
    "ZES_ENGINE_GROUP_MEDIA_ALL": "media",
}
"""Groups that sum up the single engines, by the name they are shown as."""


def load() -> ModuleType:
    """Imports pyzes and initialises Sysman.

    Raises:
        Unavailable: it is not installed, finds no loader (0.1.3 looks only where Debian has it), or no driver.
    """
    try:
        zes = importlib.import_module("pyzes")
    except ImportError as error:
        raise Unavailable("the package pyzes is not installed") from error
    except OSError as error:
        raise Unavailable(f"pyzes does not find the Level Zero loader ({error})") from error
    except Exception as error:
        raise Unavailable(f"pyzes cannot be imported ({error})") from error
    _check(zes, zes.zesInit(0), "zesInit")
    return zes


class SysmanSource:
    """One device as Sysman shows it.

    Args:
        device: found by UUID, else by PCI address.
        zes: the module pyzes; loaded where it is not given.

    Raises:
        Unavailable: pyzes cannot be used, or Sysman shows no such device.
    """

    name = "sysman"

    def __init__(self, device: Device, *, zes: ModuleType | None = None) -> None:
        if device.type != "xpu":
            raise Unavailable("Sysman knows Intel GPUs only")
        self._zes: Any = load() if zes is None else zes
        self._device = device
        self._handle = self._find()
        self._power = Rate()
        self._engines: dict[str, Rate] = {}

    def memory(self) -> MemoryReading:
        """Sums the memory modules of the card's own, or all of them on an integrated GPU."""
        zes = self._zes
        total_bytes = free_bytes = 0
        for handle in self._handles(zes.zesDeviceEnumMemoryModules, zes.zes_mem_handle_t):
            properties = zes.zes_mem_properties_t(stype=zes.ZES_STRUCTURE_TYPE_MEM_PROPERTIES)
            self._call(zes.zesMemoryGetProperties, handle, properties)
            state = zes.zes_mem_state_t(stype=zes.ZES_STRUCTURE_TYPE_MEM_STATE)
            self._call(zes.zesMemoryGetState, handle, state)
            if self._device.integrated or properties.location == zes.ZES_MEM_LOC_DEVICE:
                # Some drivers answer 0 as the physical size of a client GPU; the allocatable one is next best.
                total_bytes += properties.physicalSize or state.size
                free_bytes += state.free
        return MemoryReading(total_bytes, total_bytes - free_bytes, sees_others=True)

    def engines(self) -> Mapping[str, float] | None:
        """Busy share of each group of engines since the sample before."""
        zes = self._zes
        names = {getattr(zes, constant): name for constant, name in _ENGINE_GROUPS.items() if hasattr(zes, constant)}
        percent = {}
        for handle in self._handles(zes.zesDeviceEnumEngineGroups, zes.zes_engine_handle_t):
            properties = zes.zes_engine_properties_t(stype=zes.ZES_STRUCTURE_TYPE_ENGINE_PROPERTIES)
            self._call(zes.zesEngineGetProperties, handle, properties)
            name = names.get(properties.type)
            if name is None or properties.onSubdevice:
                continue
            stats = zes.zes_engine_stats_t()
            self._call(zes.zesEngineGetActivity, handle, stats)
            share = self._engines.setdefault(name, Rate()).update(stats.activeTime, stats.timestamp)
            if share is not None:
                percent[name] = min(100.0, 100 * share)
        if not self._engines:
            raise Unavailable("Sysman shows no engine groups")
        return percent or None

    def temperature(self) -> float:
        """Degrees Celsius of the hottest sensor of the GPU, else of the card."""
        zes = self._zes
        found: dict[int, float] = {}
        for handle in self._handles(zes.zesDeviceEnumTemperatureSensors, zes.zes_temp_handle_t):
            properties = zes.zes_temp_properties_t(stype=zes.ZES_STRUCTURE_TYPE_TEMP_PROPERTIES)
            self._call(zes.zesTemperatureGetProperties, handle, properties)
            if properties.type in (zes.ZES_TEMP_SENSORS_GPU, zes.ZES_TEMP_SENSORS_GLOBAL):
                celsius = ctypes.c_double(0.0)
                self._call(zes.zesTemperatureGetState, handle, celsius)
                found[properties.type] = max(celsius.value, found.get(properties.type, celsius.value))
        for sensor in (zes.ZES_TEMP_SENSORS_GPU, zes.ZES_TEMP_SENSORS_GLOBAL):
            if sensor in found:
                return found[sensor]
        raise Unavailable("Sysman shows no temperature sensor")

    def power(self) -> float | None:
        """Watts: microjoules over microseconds, of the first power domain of the whole card."""
        zes = self._zes
        for handle in self._handles(zes.zesDeviceEnumPowerDomains, zes.zes_pwr_handle_t):
            properties = zes.zes_power_properties_t(stype=zes.ZES_STRUCTURE_TYPE_POWER_PROPERTIES)
            self._call(zes.zesPowerGetProperties, handle, properties)
            if not properties.onSubdevice:
                counter = zes.zes_power_energy_counter_t()
                self._call(zes.zesPowerGetEnergyCounter, handle, counter)
                return self._power.update(counter.energy, counter.timestamp)
        raise Unavailable("Sysman shows no power domain")

    def frequency(self) -> float:
        """Actual MHz of the GPU domain."""
        zes = self._zes
        for handle in self._handles(zes.zesDeviceEnumFrequencyDomains, zes.zes_freq_handle_t):
            properties = zes.zes_freq_properties_t(stype=zes.ZES_STRUCTURE_TYPE_FREQ_PROPERTIES)
            self._call(zes.zesFrequencyGetProperties, handle, properties)
            if properties.type == zes.ZES_FREQ_DOMAIN_GPU and not properties.onSubdevice:
                state = zes.zes_freq_state_t(stype=zes.ZES_STRUCTURE_TYPE_FREQ_STATE)
                self._call(zes.zesFrequencyGetState, handle, state)
                return float(state.actual)
        raise Unavailable("Sysman shows no frequency domain")

    def _find(self) -> Any:
        wanted_uuid, wanted_address = plain_uuid(self._device.uuid), pci_address_of(self._device)
        zes = self._zes
        for driver in self._enumerate(zes.zesDriverGet, (), zes.zes_driver_handle_t):
            for handle in self._enumerate(zes.zesDeviceGet, (driver,), zes.zes_device_handle_t):
                if wanted_uuid and self._uuid(handle) == wanted_uuid:
                    return handle
                if wanted_address and self._address(handle) == wanted_address:
                    return handle
        raise Unavailable(f"Sysman shows no device with the UUID or PCI address of {self._device.id}")

    def _uuid(self, handle: Any) -> str:
        zes = self._zes
        extension = zes.zes_device_ext_properties_t(stype=zes.ZES_STRUCTURE_TYPE_DEVICE_EXT_PROPERTIES)
        properties = zes.zes_device_properties_t(stype=zes.ZES_STRUCTURE_TYPE_DEVICE_PROPERTIES)
        properties.pNext = ctypes.cast(ctypes.pointer(extension), ctypes.c_void_p)
        self._call(zes.zesDeviceGetProperties, handle, properties)
        return bytes(extension.uuid.id).hex()

    def _address(self, handle: Any) -> str:
        zes = self._zes
        properties = zes.zes_pci_properties_t(stype=zes.ZES_STRUCTURE_TYPE_PCI_PROPERTIES)
        self._call(zes.zesDevicePciGetProperties, handle, properties)
        address = properties.address
        return f"{address.domain:04x}:{address.bus:02x}:{address.device:02x}.{address.function:x}"

    def _handles(self, function: Callable[..., int], handle_type: type) -> list[Any]:
        return self._enumerate(function, (self._handle,), handle_type)

    def _enumerate(self, function: Callable[..., int], owner: tuple[Any, ...], handle_type: Any) -> list[Any]:
        """Sysman's usual two calls: how many, then which."""
        count = ctypes.c_uint32(0)
        _check(self._zes, function(*owner, ctypes.byref(count), None), function.__name__)
        handles = (handle_type * count.value)()
        if count.value:
            _check(self._zes, function(*owner, ctypes.byref(count), handles), function.__name__)
        return list(handles)

    def _call(self, function: Callable[..., int], handle: Any, structure: Any) -> None:
        _check(self._zes, function(handle, ctypes.byref(structure)), function.__name__)


def _check(zes: Any, code: int, function: str) -> None:
    if code == zes.ZE_RESULT_SUCCESS:
        return
    known = {getattr(zes, name): name for name in dir(zes) if name.startswith("ZE_RESULT_ERROR")}
    raise Unavailable(f"{function} answers {known.get(code, hex(code))}")
