"""Sysman through pyzes' own structures, answered by a stand-in for the driver."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from xpu_utils.telemetry import sysman
from xpu_utils.telemetry.readings import Unavailable
from xpu_utils.telemetry.sysman import SysmanSource

from .recorded import GIB, b580, xpu


@pytest.fixture
def zes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """pyzes with its real types and constants, its functions answered by `Driver`."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_args, **_keywords: object())  # no loader library here
    spec = importlib.util.find_spec("pyzes")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    Driver(module).install(monkeypatch)
    return module


class Driver:
    """Two cards in another order than torch's: a B580, then an A770."""

    UUIDS = (bytes.fromhex("86800be2000000000400000000000000"), bytes.fromhex("8680a056080000000300000000000000"))
    ADDRESSES = ((0, 4, 0, 0), (0, 3, 0, 0))

    def __init__(self, zes: ModuleType) -> None:
        self.zes: Any = zes
        self.energy = [0, 0]
        self.active = [0, 0]
        self.time = 1_000_000

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in dir(self):
            if name.startswith("zes") and callable(getattr(self, name)):
                monkeypatch.setattr(self.zes, name, getattr(self, name))
        self.zes.driver = self

    def zesInit(self, _flags: int) -> int:
        return 0

    def _list(self, count: Any, handles: Any, values: list[int]) -> int:
        count._obj.value = len(values)
        if handles is not None:
            for position, value in enumerate(values):
                handles[position] = type(handles[position])(value)
        return 0

    def zesDriverGet(self, count: Any, handles: Any) -> int:
        return self._list(count, handles, [1])

    def zesDeviceGet(self, _driver: Any, count: Any, handles: Any) -> int:
        return self._list(count, handles, [10, 11])

    def zesDeviceGetProperties(self, handle: Any, properties: Any) -> int:
        extension = ctypes.cast(properties._obj.pNext, ctypes.POINTER(self.zes.zes_device_ext_properties_t)).contents
        extension.uuid.id[:] = self.UUIDS[handle.value - 10]
        return 0

    def zesDevicePciGetProperties(self, handle: Any, properties: Any) -> int:
        address = properties._obj.address
        address.domain, address.bus, address.device, address.function = self.ADDRESSES[handle.value - 10]
        return 0

    def _children(self, device: Any, count: Any, handles: Any) -> int:
        return self._list(count, handles, [device.value])

    zesDeviceEnumMemoryModules = _children
    zesDeviceEnumEngineGroups = _children
    zesDeviceEnumTemperatureSensors = _children
    zesDeviceEnumPowerDomains = _children
    zesDeviceEnumFrequencyDomains = _children

    def zesMemoryGetProperties(self, handle: Any, properties: Any) -> int:
        properties._obj.location = self.zes.ZES_MEM_LOC_DEVICE
        properties._obj.physicalSize = (12 * GIB, 0)[handle.value - 10]  # the A770's driver answers 0
        return 0

    def zesMemoryGetState(self, handle: Any, state: Any) -> int:
        state._obj.size = (12 * GIB, 16 * GIB)[handle.value - 10]
        state._obj.free = (11 * GIB, 4 * GIB)[handle.value - 10]
        return 0

    def zesEngineGetProperties(self, _handle: Any, properties: Any) -> int:
        properties._obj.type = self.zes.ZES_ENGINE_GROUP_COMPUTE_ALL
        return 0

    def zesEngineGetActivity(self, handle: Any, stats: Any) -> int:
        stats._obj.activeTime, stats._obj.timestamp = self.active[handle.value - 10], self.time
        return 0

    def zesTemperatureGetProperties(self, _handle: Any, properties: Any) -> int:
        properties._obj.type = self.zes.ZES_TEMP_SENSORS_GPU
        return 0

    def zesTemperatureGetState(self, handle: Any, celsius: Any) -> int:
        celsius._obj.value = (40.0, 71.0)[handle.value - 10]
        return 0

    def zesPowerGetProperties(self, _handle: Any, _properties: Any) -> int:
        return 0

    def zesPowerGetEnergyCounter(self, handle: Any, counter: Any) -> int:
        counter._obj.energy, counter._obj.timestamp = self.energy[handle.value - 10], self.time
        return 0

    def zesFrequencyGetProperties(self, _handle: Any, properties: Any) -> int:
        properties._obj.type = self.zes.ZES_FREQ_DOMAIN_GPU
        return 0

    def zesFrequencyGetState(self, handle: Any, state: Any) -> int:
        state._obj.actual = (2850.0, 2100.0)[handle.value - 10]
        return 0


def test_the_device_is_found_by_uuid_though_sysmans_order_differs(zes: ModuleType) -> None:
    assert SysmanSource(xpu(index=0), zes=zes).frequency() == 2100.0
    assert SysmanSource(b580(index=1), zes=zes).frequency() == 2850.0


def test_the_device_is_found_by_pci_address_where_uuids_are_unknown(zes: ModuleType) -> None:
    assert SysmanSource(xpu(uuid="", pci_address="0000:03:00.0"), zes=zes).temperature() == 71.0


def test_a_device_sysman_does_not_show_is_not_guessed(zes: ModuleType) -> None:
    with pytest.raises(Unavailable, match="no device with the UUID or PCI address of xpu:0"):
        SysmanSource(xpu(uuid="", pci_device_id=None), zes=zes)


def test_memory_counts_other_processes_and_a_missing_physical_size(zes: ModuleType) -> None:
    memory = SysmanSource(xpu(), zes=zes).memory()
    assert (memory.total_bytes, memory.used_bytes) == (16 * GIB, 12 * GIB)


def test_power_and_load_are_rates_between_two_samples(zes: Any) -> None:
    source = SysmanSource(xpu(), zes=zes)
    assert source.power() is None
    assert source.engines() is None
    zes.driver.energy[1], zes.driver.active[1] = 50_000_000, 250_000
    zes.driver.time += 500_000
    assert source.power() == pytest.approx(100.0)  # 50 J in half a second
    assert source.engines() == pytest.approx({"compute": 50.0})


def test_an_error_code_is_told_by_name(zes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SysmanSource(xpu(), zes=zes)

    def zesTemperatureGetState(_handle: Any, _celsius: Any) -> int:
        return int(zes.ZE_RESULT_ERROR_NOT_AVAILABLE)

    monkeypatch.setattr(zes, "zesTemperatureGetState", zesTemperatureGetState)
    with pytest.raises(Unavailable, match="zesTemperatureGetState answers ZE_RESULT_ERROR_NOT_AVAILABLE"):
        source.temperature()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("no"), "not installed"),
        (OSError("libze_loader.so.1: cannot open"), "does not find the Level Zero loader"),
        (Exception("Failed to load Level Zero loader on Windows"), "cannot be imported"),
    ],
)
def test_whatever_pyzes_raises_at_import_is_a_reason(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        def find_spec(self, name: str, *_rest: object) -> None:
            if name == "pyzes":
                raise error

    monkeypatch.delitem(sys.modules, "pyzes", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(Unavailable, match=reason):
        sysman.load()
