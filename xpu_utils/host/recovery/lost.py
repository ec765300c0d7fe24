"""What happens when a device is lost: nothing on it can be read or freed again, so everything is led around it."""

from __future__ import annotations

import dataclasses
import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

import comfy.model_management as model_management
import torch
from comfy.patcher_extension import CallbacksMP

from ...choice import AUTO
from ...machine.devices import Device
from ...placement import Placement, place
from ...recovery.faults import FaultKind, classify, first_line, is_dead, mark_lost
from .. import cpu_engine, hooks, streaming, target
from ..inventory import host_inventory
from .weights import is_lost, recover

PLACEMENT = "xpu_nodes.placement"
"""Attachment key under which a patcher carries its placement."""

EMPTY_CACHE_HOOK = hooks.named("cache emptying after a lost device")
DEFAULT_HOOK = hooks.named("default device after a lost device")
LOADED_HOOK = hooks.named("loaded models")

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
    return dataclasses.replace(attached, requested=led_to.id, device=led_to, reason="")


def set_placement(patcher: Any, placement: Placement) -> None:
    """Gives a patcher its placement, and has it and its later clones led around devices that get lost."""
    patcher.set_attachments(PLACEMENT, placement)
    _lead_with_clones(patcher)


def follow(patcher: Any) -> None:
    """Has a patcher without a placement, and those that it was cloned from, be led around devices that get lost.

    ComfyUI's own nodes ask them for their device, and make clones of them.
    """
    while patcher is not None and patcher not in _led:
        _lead_with_clones(patcher)
        patcher = patcher.parent


def _lead_with_clones(patcher: Any) -> None:
    patcher.remove_callbacks_with_key(CallbacksMP.ON_CLONE, PLACEMENT)
    patcher.add_callback_with_key(CallbacksMP.ON_CLONE, PLACEMENT, _cloned)
    _led.add(patcher)


def _cloned(original: Any, clone: Any, *_: Any) -> None:
    _led.add(clone)
    if clone.model is not original.model:  # a copy for another device
        cpu_engine.forget(clone)


def lead_to(patcher: Any, device: Device, placement: Placement) -> None:
    """Has a patcher load to another device from now on; its weights move, or are recovered, when it loads."""
    target.retarget(patcher, device.torch_device)
    patcher.offload_device = torch.device("cpu")
    set_placement(patcher, placement)


def lose_dead(error: BaseException) -> tuple[str, ...]:
    """After an error that tells of a lost device, finds the dead ones and leads every placed model around them.

    The error does not say which device it was, and the CPU is never lost.

    Returns:
        The ids of the devices that were not known to be lost; none where all that are left still work.
    """
    dead = [device.torch_device for device in host_inventory().accelerators if is_dead(device.torch_device)]
    message = first_line(error)
    for device in dead:
        mark_lost(str(device), message)
        logging.error("XPU Nodes: %s is lost until ComfyUI restarts: %s", device, message)
    for device in dead:
        _lead_around(device)
    return tuple(map(str, dead))


def _lead_around(device: torch.device) -> None:
    """Forgets what ComfyUI holds on a lost device and leads every model that was on it elsewhere."""
    _forget_loaded(device)
    _replace_default(device)
    _survive_empty_cache()
    inventory = host_inventory()
    there = [patcher for patcher in _led if patcher.load_device == device]
    there.sort(key=lambda patcher: placement_of(patcher) is None)  # placed ones know where their weights came from
    for patcher in there:  # before any of them is recovered: they share models, and what was patched of these
        target.abandon(patcher)
        streaming.abandon(patcher)
    for patcher in there:
        placement = placement_of(patcher)
        fallback = place(str(device), inventory, precision=placement.precision if placement else AUTO)
        if placement is None:
            target.retarget(patcher, fallback.device.torch_device)
            patcher.offload_device = torch.device("cpu")
        else:
            requested = placement.requested
            lead_to(patcher, fallback.device, dataclasses.replace(fallback, requested=requested, carried_over=True))
        _recover_now(patcher)


def _recover_now(patcher: Any) -> None:
    """Recovers the weights at once: samplers read a model's noise levels before any of our wrappers is called."""
    try:
        recover(patcher)
    except (RuntimeError, ValueError, OSError) as error:  # said again, and raised, when the model is used
        logging.warning("XPU Nodes: %s", error)


def _forget_loaded(device: torch.device) -> None:
    """Drops ComfyUI's entries for models on the device: unloading them would only fail."""
    if hooks.switched_off(LOADED_HOOK):
        return
    for loaded in list(model_management.current_loaded_models):
        if loaded.device == device:
            if loaded.model_finalizer is not None:
                loaded.model_finalizer.detach()
            take_out_loaded(loaded)


def take_out_loaded(loaded: Any) -> None:
    """Takes a model out of ComfyUI's list of those that are loaded."""
    does = "models on a lost device, and those that move, leave ComfyUI's list"
    hooks.take_out(LOADED_HOOK, model_management.current_loaded_models, loaded, does)


def _replace_default(device: torch.device) -> None:
    """Has ComfyUI use another default device if the lost one was it."""
    if model_management.get_torch_device() != device or hooks.switched_off(DEFAULT_HOOK):
        return
    best = host_inventory().best
    if best.type == "cpu":
        hooks.put(model_management, "cpu_state", model_management.CPUState.CPU)  # what --cpu does
        _record_default(device, best)
        return
    torch.get_device_module(best.type).set_device(best.index)
    _default_to_a_living_device()
    _record_default(device, best)


def _record_default(lost: torch.device, best: Device) -> None:
    hooks.record(
        DEFAULT_HOOK,
        hooks.State.APPLIED,
        f"{lost} is lost, ComfyUI runs on {best.id}",
        in_force=lambda: not is_lost(model_management.get_torch_device()),
        otherwise=f"another pack answers with {lost}, which is lost",
    )


def _default_to_a_living_device() -> None:
    """PyTorch's current device, which ComfyUI asks, is each thread's own: in others it is still the lost one."""
    stock: Callable[[], torch.device] = model_management.get_torch_device
    if getattr(stock, "xpu_nodes", False):
        return

    @functools.wraps(stock)
    def get_torch_device(*arguments: Any, **keywords: Any) -> torch.device:
        device = stock(*arguments, **keywords)
        return host_inventory().best.torch_device if is_lost(device) else device

    get_torch_device.xpu_nodes = True  # type: ignore[attr-defined]
    hooks.put(model_management, "get_torch_device", get_torch_device)


def _survive_empty_cache() -> None:
    """ComfyUI empties the cache of all devices between prompts; a lost one must not end its worker thread."""
    original: Callable[..., Any] = model_management.soft_empty_cache
    if getattr(original, "xpu_nodes", False) or hooks.switched_off(EMPTY_CACHE_HOOK):
        return

    @functools.wraps(original)
    def soft_empty_cache(*arguments: Any, **keywords: Any) -> None:
        try:
            original(*arguments, **keywords)
        except RuntimeError as error:
            if classify(error) is not FaultKind.DEVICE_LOST:
                raise

    soft_empty_cache.xpu_nodes = True  # type: ignore[attr-defined]
    does = "errors of a lost device are passed over"
    hooks.put_for_good(EMPTY_CACHE_HOOK, model_management, "soft_empty_cache", soft_empty_cache, does)
