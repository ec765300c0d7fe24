"""The most device memory that PyTorch's allocator held during a stretch of work."""

from __future__ import annotations

from typing import Any

import torch

from ..machine.devices import Device


def restart_peaks() -> None:
    """Begins the stretch, on every accelerator; one that is lost is passed over."""
    current = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if current is None:
        return
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
        return int(torch.get_device_module(device.type).max_memory_allocated(device.index))
    except RuntimeError:
        return None
