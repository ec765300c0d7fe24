"""What a patcher carries of where it was placed, and its way from there when a device fails or is lost."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP

from ...machine.devices import Device
from ...placement import Placement
from .. import cpu_engine
from ..inventory import host_inventory
from ..target import HOST, retarget

PLACEMENT = "xpu_nodes.placement"
"""Attachment key under which a patcher carries its placement."""

_led: weakref.WeakSet[Any] = weakref.WeakSet()
"""The patchers that are led around devices which get lost."""


def placement_of(patcher: Any) -> Placement | None:
    """The placement a patcher was given by one of our nodes, if any; where a node of ComfyUI's has led it since."""
    attached = patcher.get_attachment(PLACEMENT)
    if not isinstance(attached, Placement):
        return None
    led_to = host_inventory().find(str(patcher.load_device))
    if led_to in (None, attached.device):
        return attached
    return dataclasses.replace(attached, requested=led_to.id, device=led_to, reason="", notes=())


def set_placement(patcher: Any, placement: Placement) -> None:
    """Gives a patcher its placement, and has it and its later clones led around devices that get lost."""
    patcher.set_attachments(PLACEMENT, placement)
    _lead_with_clones(patcher)


def lead_to(patcher: Any, placement: Placement) -> None:
    """Has a patcher load where it is placed from now on; its weights move, or are recovered, when it loads."""
    _lead(patcher, placement.device)
    set_placement(patcher, placement)


def carry_over(patcher: Any, device: Device, why: str) -> None:
    """Has a patcher load to another device from now on, because work on its own failed."""
    placement = placement_of(patcher)
    if placement is None:
        _lead(patcher, device)
    else:
        lead_to(patcher, placement.moved(device, why))


def _lead(patcher: Any, device: Device) -> None:
    retarget(patcher, device.torch_device)
    patcher.offload_device = HOST


def follow(patcher: Any) -> None:
    """Has a patcher without a placement, and those that it was cloned from, be led around devices that get lost.

    ComfyUI's own nodes ask them for their device, and make clones of them.
    """
    while patcher is not None and patcher not in _led:
        _lead_with_clones(patcher)
        patcher = patcher.parent


def led_to(device: torch.device) -> list[Any]:
    """The patchers that load to a device; placed ones, which know where their weights came from, first."""
    there = [patcher for patcher in _led if patcher.load_device == device]
    return sorted(there, key=lambda patcher: placement_of(patcher) is None)


def _lead_with_clones(patcher: Any) -> None:
    patcher.remove_callbacks_with_key(CallbacksMP.ON_CLONE, PLACEMENT)
    patcher.add_callback_with_key(CallbacksMP.ON_CLONE, PLACEMENT, _cloned)
    _led.add(patcher)


def _cloned(original: Any, clone: Any, *_: Any) -> None:
    _led.add(clone)
    if clone.model is not original.model:  # a copy for another device
        cpu_engine.forget(clone)
