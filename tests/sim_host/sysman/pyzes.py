"""Level Zero Sysman of the simulated devices: pyzes with its real types, its functions answered by the simulation.

A server finds it in place of the real package when this folder is on PYTHONPATH.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import sys
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


class _Driver:
    """One driver with the devices of the simulation; handles are positions plus one."""

    def __init__(self, zes: Any) -> None:
        self._zes = zes

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
        device = _devices()[handle.value - 1]
        extension.uuid.id[:] = bytes.fromhex(device.uuid.replace(" ", ""))
        extension.flags = 1 if device.integrated else 0
        return 0

    def zesDeviceEnumMemoryModules(self, device: Any, count: Any, handles: Any) -> int:
        return _list(count, handles, [device.value])

    def zesMemoryGetProperties(self, handle: Any, properties: Any) -> int:
        properties._obj.location = self._zes.ZES_MEM_LOC_DEVICE
        properties._obj.physicalSize = _devices()[handle.value - 1].total_bytes
        return 0

    def zesMemoryGetState(self, handle: Any, state: Any) -> int:
        import torch

        device = _devices()[handle.value - 1]
        used_bytes = device.other_process_bytes + torch.xpu.memory_reserved(handle.value - 1)
        state._obj.size, state._obj.free = device.total_bytes, device.total_bytes - used_bytes
        return 0


def _devices() -> Any:
    from tests import xpu_sim

    return xpu_sim.current().devices


def _list(count: Any, handles: Any, values: list[int]) -> int:
    count._obj.value = len(values)
    if handles is not None:
        for position, value in enumerate(values):
            handles[position] = type(handles[position])(value)
    return 0


_module = _real()
_Driver(_module).install()
sys.modules[__name__] = _module
