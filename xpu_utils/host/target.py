"""Where a patcher loads its model to, also where the host streams the weights by itself (DynamicVRAM).

A dynamic model keeps its weights on the host, mapped from its file. For each device that it was loaded to it has a
range of addresses and page-locked copies, and its modules point into these. On the CPU its patcher is a plain one.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any

import comfy.model_management as model_management
import torch
from comfy.model_patcher import ModelPatcher

from ..recovery.faults import lost_devices
from . import hooks
from .neighbours import without_dynamic_vram

DYNAMIC_KIND = "xpu_nodes.dynamic_kind"
"""Attachment key under which a dynamic patcher that went to the CPU carries the class that it was of, ..."""
MAPPED = "xpu_nodes.mapped_weights"
"""... and the weights that were mapped: (module, name, parameter)."""

HOST = torch.device("cpu")

LOADED_HOOK = hooks.named("loaded models")

# How the names begin of what modules remember of a device that they were loaded to.
_POINTERS = ("_v_", "_pin", "_prefetch")


def is_dynamic(patcher: Any) -> bool:
    """Whether the host streams this patcher's weights by itself (DynamicVRAM, on newer hosts)."""
    return hasattr(patcher, "is_dynamic") and bool(patcher.is_dynamic())


def read_again(initialiser: Sequence[Any], **keywords: Any) -> Any:
    """A patcher over a model of its own, by what loaders leave with one on newer hosts (`cached_patcher_init`)."""
    load, arguments, *position = initialiser
    answer = load(*arguments, **keywords)
    return answer[position[0]] if position else answer


def clone_for(patcher: Any, device: torch.device) -> Any:
    """A clone that loads to a device.

    The new patch id makes ComfyUI unload shared weights from wherever they are before it loads them for the clone,
    and again when the original is next used: they are never on two devices. A dynamic model gets weights of its own
    for another device, read again by its loader, as ComfyUI's own device nodes do it.

    Raises:
        RuntimeError: the model is dynamic and its loader does not tell how to read it again.
    """
    if patcher.load_device == device:
        return patcher.clone()
    if not is_dynamic(patcher):
        clone = patcher.clone()
    elif getattr(patcher, "cached_patcher_init", None) is None:
        raise RuntimeError(
            f"{type(patcher.model).__name__} cannot go to {device}: DynamicVRAM has it on {patcher.load_device} and "
            "its loader does not tell how to read it again, load it with a loader of this pack or start ComfyUI with "
            "--disable-dynamic-vram."
        )
    elif device == HOST:
        with without_dynamic_vram():
            clone = patcher.clone(disable_dynamic=True)
    elif hasattr(patcher, "deepclone_multigpu"):
        return patcher.deepclone_multigpu(new_load_device=device)
    else:
        again = read_again(patcher.cached_patcher_init)
        clone = patcher.clone(model_override=again.get_clone_model_override())
    retarget(clone, device)
    clone.offload_device = HOST
    return clone


def retarget(patcher: Any, device: torch.device) -> None:
    """Has a patcher, whose weights are on the host, load them to another device from now on."""
    if is_dynamic(patcher) or patcher.get_attachment(DYNAMIC_KIND) is not None:
        _release(patcher)
        if device == HOST:
            _make_plain(patcher)
        else:
            _make_dynamic(patcher, device)
    patcher.load_device = device
    patcher.patches_uuid = uuid.uuid4()


def unload(patcher: Any) -> None:
    """Takes a model's weights off its device, back to the host."""
    for loaded in [] if hooks.switched_off(LOADED_HOOK) else list(model_management.current_loaded_models):
        if loaded.model is not None and patcher.is_clone(loaded.model):
            loaded.model_unload()
            take_out_loaded(loaded)
    if patcher.model.device != HOST:
        patcher.detach()


def take_out_loaded(loaded: Any) -> None:
    """Takes a model out of ComfyUI's list of those that are loaded."""
    does = "models on a lost device, and those that move, leave ComfyUI's list"
    hooks.take_out(LOADED_HOOK, model_management.current_loaded_models, loaded, does)


def abandon(patcher: Any) -> None:
    """Puts a dynamic model's weights back to the ones on the host if its device is lost; asks nothing of it."""
    if is_dynamic(patcher) and str(patcher.load_device) in lost_devices():
        _release(patcher)
        patcher.partially_unload(HOST, math.inf)  # of the device nothing is left: what was replaced is put back


def _release(patcher: Any) -> None:
    """Drops what a model holds of the device that it loads to."""
    model, device = patcher.model, patcher.load_device
    for module in model.modules():
        for name in [name for name in vars(module) if f"{name}_".startswith(_POINTERS)]:
            vars(module).pop(name)
    getattr(model, "dynamic_vbars", {}).pop(device, None)
    if getattr(model, "dynamic_pins", {}).pop(device, None) is not None:
        _register(patcher, device)  # empty: other patchers of this model may still name the device
    model.device = HOST


def _make_plain(patcher: Any) -> None:
    """For the CPU, where weights may be written to: those that are somebody's mapping are copied."""
    if not is_dynamic(patcher):
        return
    patcher.set_attachments(DYNAMIC_KIND, type(patcher))
    _patchers(patcher.model).discard(id(patcher))
    patcher.__class__ = ModelPatcher
    mapped = [
        (module, name, parameter)
        for module in patcher.model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and _is_anothers(parameter)
    ]
    patcher.set_attachments(MAPPED, mapped)
    copies: dict[int, torch.nn.Parameter] = {}
    for module, name, parameter in mapped:
        if id(parameter) not in copies:
            dtype = getattr(module, f"{name}_comfy_model_dtype", None)  # mapped weights are as they are in the file
            copies[id(parameter)] = torch.nn.Parameter(parameter.detach().to(dtype, copy=True), requires_grad=False)
        module._parameters[name] = copies[id(parameter)]


def _is_anothers(parameter: Any) -> bool:
    """Whether a weight, or a part of a quantised one, lies in memory that somebody has marked as theirs."""
    names = parameter.__tensor_flatten__()[0] if hasattr(parameter, "__tensor_flatten__") else ()
    parts = [getattr(parameter, name) for name in names] or [parameter]
    return any(vars(part.untyped_storage()) for part in parts)


def _make_dynamic(patcher: Any, device: torch.device) -> None:
    if not is_dynamic(patcher):
        patcher.__class__ = patcher.get_attachment(DYNAMIC_KIND)
        _patchers(patcher.model).add(id(patcher))
        for module, name, parameter in patcher.get_attachment(MAPPED):
            module._parameters[name] = parameter
        for key in (DYNAMIC_KIND, MAPPED):
            patcher.remove_attachments(key)
    _register(patcher, device)


def _register(patcher: Any, device: torch.device) -> None:
    """Has newer hosts keep an account of what is page-locked for a device."""
    if hasattr(patcher, "register_load_device"):
        patcher.register_load_device(device)


def _patchers(model: Any) -> set[int]:
    """The ids of a model's dynamic patchers: newer hosts unlock its memory after the last of them."""
    ids: set[int] = getattr(model, "dynamic_patchers", set())
    return ids
