"""Stands in for comfy-aimdo on simulated XPUs: its allocator in PyTorch's place; DynamicVRAM where the host has it.

The library itself is loaded on any machine, so files are mapped by it; what needs a device is kept in tensors here.
"""

from __future__ import annotations

import ctypes
import importlib
import itertools
import os
import sys
import types
from collections import Counter
from typing import Any

import torch

from tests import xpu_sim

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

held_bytes: Counter[int] = Counter()
"""What it holds of each device beside PyTorch's tensors; `hold` changes it."""

_nested_stats = torch._C._xpu_memoryStats
_residencies = itertools.count()


def hold(index: int, size_bytes: int) -> None:
    """Takes or gives back (below 0) memory of a device that PyTorch's allocator knows nothing of."""
    held_bytes[index] += size_bytes
    simulation = xpu_sim.current()
    used_bytes = simulation.devices[index].other_process_bytes
    simulation.change_device(index, other_process_bytes=used_bytes + size_bytes)


def refused(*_: object) -> None:
    raise RuntimeError("XPUPluggableAllocator does not yet support this.")


def _flat_stats(device: Any = None) -> dict[str, int]:
    index = torch.xpu._utils._get_device_index(device, optional=True)
    nested = _nested_stats(index)
    names = ("active_bytes", "allocated_bytes", "reserved_bytes")
    return {f"{name}.all.{kind}": nested[name]["all"][kind] for name in names for kind in ("current", "peak")}


def _total_usage(index: int) -> int:
    return int(_nested_stats(index)["reserved_bytes"]["all"]["current"]) + held_bytes[index]


def _context(index: int) -> int:
    if index not in range(torch.xpu.device_count()):
        raise RuntimeError(f"comfy-aimdo device {index} is not initialized")
    return index


class _Library:
    """The loaded library, but for its account of device memory."""

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded
        self.get_total_vram_usage = _total_usage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loaded, name)


class Addresses:
    """A range of addresses on a device; what lies there is resident while it holds a tensor."""

    def __init__(self, size: int, device: int) -> None:
        self.device = torch.device("xpu", device)
        self.rooms: dict[int, tuple[torch.Tensor, int]] = {}
        self._next = 0

    def prioritize(self) -> None:
        pass

    def alloc(self, size: int) -> tuple[Addresses, int, int]:
        self._next += size
        return self, self._next - size, size

    def fault(self, offset: int, size: int) -> int:
        if offset not in self.rooms:
            room = torch.empty(size, dtype=torch.uint8, device=self.device)
            self.rooms[offset] = room, next(_residencies)
        return self.rooms[offset][1]

    def loaded_size(self) -> int:
        return sum(room.numel() for room, _ in self.rooms.values())

    def free_memory(self, size: float) -> int:
        freed = self.loaded_size()
        self.rooms.clear()
        return freed


def _room(allocation: tuple[Addresses, int, int], device: torch.device) -> torch.Tensor:
    addresses, offset, _ = allocation
    assert addresses.device == device, "the addresses of another device"
    return addresses.rooms[offset][0]


def _read_file(
    file: int, start: int, size: int, stream: int, address: int, device: int, mark_cold: bool = True
) -> None:
    room = (ctypes.c_char * size).from_address(address)  # simulated memory is the host's
    assert os.preadv(file, [room], start) == size


def _take_pytorchs_place() -> None:
    torch._C._xpu_memoryStats = torch._C._xpu_setMemoryFraction = refused
    torch.xpu.memory_stats = torch.xpu.memory.memory_stats = _flat_stats


def _be_on_every_device(control: Any) -> None:
    control.devctxs = list(range(torch.xpu.device_count()))
    control.get_devctx = _context
    control.get_xpu_allocator_mode = lambda: "global"
    control.lib = _Library(control.lib)


def _stream_weights() -> None:
    """DynamicVRAM, as the host turns it on."""
    vbar, host_buffer, tensors = (
        importlib.import_module(f"comfy_aimdo.{name}") for name in ("model_vbar", "host_buffer", "torch")
    )
    vbar.ModelVBAR = Addresses
    vbar.vbar_fault = lambda allocation: allocation[0].fault(*allocation[1:])
    vbar.vbar_unpin = vbar.vbars_analyze = lambda *_: 0
    vbar.vbar_signature_compare = lambda one, other: one is not None and one == other
    vbar.vbars_reset_watermark_limits = lambda: None
    tensors.aimdo_to_tensor = _room
    host_buffer.read_file_to_device = _read_file
    switch_dynamic_vram(on=True)


def switch_dynamic_vram(*, on: bool) -> None:
    """Has the host's loaders build dynamic patchers, or plain ones."""
    import comfy.memory_management
    import comfy.model_patcher

    kinds = comfy.model_patcher
    kinds.CoreModelPatcher = kinds.ModelPatcherDynamic if on else kinds.ModelPatcher
    comfy.memory_management.aimdo_enabled = on


_take_pytorchs_place()
try:
    _control: Any = importlib.import_module("comfy_aimdo.control")
except ImportError:  # a host without DynamicVRAM
    _control = types.ModuleType("comfy_aimdo.control")
    _control.lib = None
    sys.modules["comfy_aimdo"] = types.ModuleType("comfy_aimdo")
    sys.modules["comfy_aimdo"].control = sys.modules["comfy_aimdo.control"] = _control  # type: ignore[attr-defined]
else:
    if _control.lib is None:  # outside of a server the host has imported these without their library
        _control.init()
        for _name in ("model_mmap", "host_buffer", "vram_buffer", "model_vbar"):
            importlib.reload(importlib.import_module(f"comfy_aimdo.{_name}"))
    _stream_weights()
_be_on_every_device(_control)
