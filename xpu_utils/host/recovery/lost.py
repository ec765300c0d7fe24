"""What happens when a device is lost: nothing on it can be read or freed again, so everything is led around it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Hashable
from typing import Any

import comfy.model_management as model_management
import torch

from ...machine.devices import Device
from ...machine.last_words import own_book
from ...placement import place
from ...recovery.faults import NoAnswerError, first_line, is_dead, is_lost, mark_lost
from ...recovery.ladder import LadderExhaustedError
from ...recovery.watch import watched
from .. import hooks, streaming, target
from ..inventory import host_inventory
from ..placing.placed import carry_over, led_to
from ..prompts import current_node_id
from ..stages import current_stage
from .patches import keep
from .weights import recover

NEW_DEFAULT_HOOK = hooks.named("default device after a lost device")


def lose_dead(error: BaseException, *, also: torch.device | None = None) -> tuple[str, ...]:
    """After an error that tells of a lost device, finds the dead ones and leads every placed model around them.

    The error does not say which device it was, and the CPU is never lost. One that gave no answer is not asked again.

    Args:
        also: a device that answers, but has lost what is on it.

    Returns:
        The ids of the devices that were not known to be lost; none where all that are left still work.
    """
    living = [device.torch_device for device in host_inventory().accelerators]
    silent = error.device if isinstance(error, NoAnswerError) else None
    dead = [device for device in living if device == also or (device == silent if silent else is_dead(device))]
    message = first_line(error)
    if silent is not None:
        own_book().note_silent(str(silent), current_stage() or "work between stages", current_node_id())
    for device in dead:
        mark_lost(str(device), message)
        logging.error("XPU Nodes: %s is lost until ComfyUI restarts: %s", device, message)
    for device in dead:
        _lead_around(device)
    return tuple(map(str, dead))


def answers(device: torch.device, work: Callable[[], object], *kind: Hashable) -> bool:
    """Does work on a device, as `watched` does; whether the device answered: else it is lost from now on."""
    try:
        watched(work, device, *kind)
    except NoAnswerError as error:
        lose_dead(error)
        return False
    return True


def readied(patcher: Any, work: Callable[[Any], object]) -> None:
    """Does work that may read from the device where a patcher's model is; once more where that does not answer."""
    device, kind = patcher.model.device or target.HOST, type(patcher.model).__name__
    if not answers(device, functools.partial(work, patcher), "make ready", kind, patcher.model_size()):
        work(patcher)


def _lead_around(device: torch.device) -> None:
    """Forgets what ComfyUI holds on a lost device and leads every model that was on it elsewhere."""
    _forget_loaded(device)
    _replace_default(device)
    there = led_to(device)
    for patcher in there:  # before any of them is recovered: they share models, and what was patched of these
        target.abandon(patcher)
        streaming.abandon(patcher)
    fallback = place(str(device), host_inventory())
    for patcher in there:
        carry_over(patcher, fallback.device, fallback.reason)
        _recover_now(patcher)
        with contextlib.suppress(LadderExhaustedError):  # then its nodes are executed anew
            keep(patcher)


def _recover_now(patcher: Any) -> None:
    """Recovers the weights at once: samplers read a model's noise levels before any of our wrappers is called."""
    try:
        recover(patcher)
    except (RuntimeError, ValueError, OSError) as error:  # said again, and raised, when the model is used
        logging.warning("XPU Nodes: %s", error)


def _forget_loaded(device: torch.device) -> None:
    """Drops ComfyUI's entries for models on the device: unloading them would only fail."""
    if hooks.switched_off(target.LOADED_HOOK):
        return
    for loaded in list(model_management.current_loaded_models):
        if loaded.device == device:
            if loaded.model_finalizer is not None:
                loaded.model_finalizer.detach()
            target.take_out_loaded(loaded)


def _replace_default(device: torch.device) -> None:
    """Has ComfyUI, whose default is PyTorch's current device, use another one if the lost one was it."""
    if torch.get_device_module(device.type).current_device() != device.index or hooks.switched_off(NEW_DEFAULT_HOOK):
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
        NEW_DEFAULT_HOOK,
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
