"""The most device memory that PyTorch's allocator held during a stretch of work."""

from __future__ import annotations

from typing import Any

import torch

from ..machine.devices import Device

_earlier: dict[int | None, int] = {}
"""By device, the peak of the stretch before somebody measured within it."""


def restart_peaks() -> None:
    """Begins the stretch, on every accelerator; one that is lost is passed over."""
    current = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if current is None:
        return
    _earlier.clear()
    module: Any = torch.get_device_module(current.type)
    for index in range(module.device_count()):
        try:
            module.reset_peak_memory_stats(index)
        except RuntimeError:
            continue  # a lost device answers nothing


def peak_bytes(device: Device) -> int | None:
    """The most bytes allocated since `restart_peaks`; None for the CPU and for a lost device."""
    if device.type == "cpu":
        return None
    try:
        now = int(torch.get_device_module(device.type).max_memory_allocated(device.index))
    except RuntimeError:
        return None
    return max(now, _earlier.get(device.index, 0))


def begin_within(device: torch.device) -> None:
    """Begins a stretch within the one that `peak_bytes` tells of, for `taken_within`."""
    module: Any = torch.get_device_module(device.type)
    _earlier[device.index] = max(_earlier.get(device.index, 0), int(module.max_memory_allocated(device)))
    module.reset_peak_memory_stats(device)


def taken_within(device: torch.device) -> int:
    """Bytes that were allocated for a while since `begin_within`, beside what is allocated now."""
    module: Any = torch.get_device_module(device.type)
    return int(module.max_memory_allocated(device) - module.memory_allocated(device))
