"""PyTorch as a source: what its allocator holds, and what its device functions tell (some since 2.13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..machine.devices import Device
from ..recovery.faults import first_line
from .readings import MemoryReading, Unavailable

_ALLOCATOR_KEYS = ("reserved_bytes", "active_bytes")


def allocator_bytes(device: Device) -> tuple[int, int]:
    """(reserved, active): what PyTorch's allocator took from the driver, and what of that is in tensors.

    Raises:
        Unavailable: this build does not tell.
    """
    # memory_stats() flattens the same figures into hundreds of keys first, which takes 0.4 ms.
    try:
        statistics = _ask(device, "memory_stats_as_nested_dict")
    except Unavailable:
        # A pluggable allocator has no such figures; whoever plugs one in answers the flat ones in its place.
        flat = _ask(device, "memory_stats")
        statistics = {key: {"all": {"current": flat[f"{key}.all.current"]}} for key in _ALLOCATOR_KEYS if flat}
    if not statistics:  # before the device is first used
        return 0, 0
    reserved_bytes, active_bytes = (statistics[key]["all"]["current"] for key in _ALLOCATOR_KEYS)
    return int(reserved_bytes), int(active_bytes)


def memory_fraction(device: Device) -> float:
    """The share of the device's memory that PyTorch's allocator may take; 1.0 where it is not limited."""
    try:
        return float(_ask(device, "get_per_process_memory_fraction"))
    except Unavailable:
        return 1.0


class DriverSource:
    """One device by the functions of `torch.<type>`.

    Except for memory these take the device by its position in Sysman, whose order can differ from torch's
    (torch-xpu-ops #5015), so they are used only where there is no second device to be mistaken for it.
    `power_draw` and `utilization` block for 150 ms each.
    """

    name = "torch"

    def __init__(self, device: Device) -> None:
        if device.type == "cpu":
            raise Unavailable("torch has no readings of the CPU")
        self._device = device

    def memory(self) -> MemoryReading:
        """By `torch.<type>.mem_get_info`; fails on Arc Pro B50 and several iGPUs (pytorch #162909)."""
        free_bytes, total_bytes = _ask(self._device, "mem_get_info")
        return MemoryReading(total_bytes, total_bytes - free_bytes, sees_others=True)

    def engines(self) -> Mapping[str, float]:
        return {"all": float(self._single("utilization"))}

    def temperature(self) -> float:
        return float(self._single("temperature"))

    def power(self) -> float:
        watts = float(self._single("power_draw"))
        return watts / 1000 if self._device.type == "cuda" else watts  # torch.cuda answers in milliwatts

    def frequency(self) -> float:
        return float(self._single("clock_rate"))

    def _single(self, function: str) -> float:
        if getattr(torch, self._device.type).device_count() != 1:
            raise Unavailable(f"torch.{self._device.type}.{function} knows devices only by position")
        return float(_ask(self._device, function))


class AllocatorSource:
    """The last resort for memory: this process's own share."""

    name = "allocator"

    def __init__(self, device: Device) -> None:
        if device.type == "cpu":
            raise Unavailable("torch keeps no account of the CPU's memory")
        self._device = device

    def memory(self) -> MemoryReading:
        return MemoryReading(self._device.total_bytes, _ask(self._device, "memory_reserved"), sees_others=False)


def _ask(device: Device, function: str) -> Any:
    module = getattr(torch, device.type)
    call: Callable[[int | None], Any] | None = getattr(module, function, None)
    if call is None:
        raise Unavailable(f"torch.{device.type}.{function} does not exist in this build")
    try:
        return call(device.index)
    # What drivers, missing bindings (pyzes, pynvml) and builds without the backend raise.
    except (RuntimeError, ImportError, OSError, ValueError, AttributeError, NotImplementedError) as error:
        raise Unavailable(f"torch.{device.type}.{function}: {first_line(error)}") from error
