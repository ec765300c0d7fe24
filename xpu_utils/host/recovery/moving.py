"""Moves a loaded model to another device in the middle of its work."""

from __future__ import annotations

import gc
from collections.abc import Container
from typing import Any

import comfy.model_management as model_management
import torch

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


def free_others(device: torch.device, keep: list[Any]) -> str:
    """Unloads every model from the device but the given patchers' and empties the cache; says what that freed."""
    before = model_management.get_free_memory(device)
    kept = [
        loaded
        for loaded in model_management.current_loaded_models
        if loaded.model is not None and any(loaded.model.is_clone(patcher) for patcher in keep)
    ]
    model_management.free_memory(1e30, device, keep_loaded=kept)
    gc.collect()
    model_management.soft_empty_cache()
    freed = max(0, model_management.get_free_memory(device) - before)
    return f"{freed / 2**20:.0f} MiB freed"
