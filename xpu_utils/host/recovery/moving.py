"""Moves a loaded model to another device in the middle of its work."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Container
from typing import Any

import comfy.model_management as model_management
import torch

from ...machine.devices import Device
from ..hooks import switched_off
from ..inventory import host_inventory
from ..target import HOST, retarget
from .lost import LOADED_HOOK, lead_to, placement_of, take_out_loaded
from .weights import recover


def unload(patcher: Any) -> None:
    """Takes a model's weights off its device, back to the host."""
    for loaded in [] if switched_off(LOADED_HOOK) else list(model_management.current_loaded_models):
        if loaded.model is not None and patcher.is_clone(loaded.model):
            loaded.model_unload()
            take_out_loaded(loaded)
    if patcher.model.device != HOST:
        patcher.detach()


def relocate(patcher: Any, device: Device, reason: str) -> None:
    """Has a patcher's model load to another device, with weights from the host, from its file or from a copy.

    Raises:
        RuntimeError: the weights were lost with their device and cannot be had again.
    """
    if not recover(patcher):
        unload(patcher)
    placement = placement_of(patcher)
    if placement is not None:
        lead_to(patcher, device, dataclasses.replace(placement, device=device, reason=reason, carried_over=True))
    else:
        retarget(patcher, device.torch_device)


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
