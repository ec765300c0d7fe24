"""Moves a loaded model to another device in the middle of its work."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import comfy.model_management as model_management

from ...machine.devices import Device
from ..inventory import host_inventory
from ..placing.placed import carry_over
from ..target import unload
from .weights import recover


def relocate(patcher: Any, device: Device, reason: str) -> None:
    """Has a patcher's model load to another device, with weights from the host, from its file or from a copy.

    Raises:
        RuntimeError: the weights were lost with their device and cannot be had again.
    """
    if not recover(patcher):
        unload(patcher)
    carry_over(patcher, device, reason)


def another_accelerator(without: Container[str], needed_bytes: float) -> Device | None:
    """An accelerator that is not among those ids and has that much free memory, or None."""
    for device in host_inventory().accelerators:
        if device.id not in without and model_management.get_free_memory(device.torch_device) > needed_bytes:
            return device
    return None


def cpu() -> Device:
    """The CPU."""
    return host_inventory().devices[-1]
