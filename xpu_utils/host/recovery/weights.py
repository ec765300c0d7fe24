"""Gets a model's weights back when the device that held them is gone."""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.model_management as model_management
import comfy.model_patcher
import comfy.utils
import torch

from ...recovery.faults import is_lost, lost_devices
from ...weights.check import tensors_in
from ...weights.int8_layers import hold_again
from ...weights.mapped import check_mapped
from .. import streaming, target
from ..inventory import as_default
from ..memory import host_room_bytes
from ..target import HOST

SOURCE = "xpu_nodes.weights"
"""Attachment key under which a patcher carries the way to its weights."""


_copies: weakref.WeakKeyDictionary[torch.nn.Module, dict[str, torch.Tensor]] = weakref.WeakKeyDictionary()
"""Host copies of modules that travel with a model as object patches, such as another node's noise schedule."""


@dataclasses.dataclass(frozen=True)
class WeightSource:
    """Where a model's unpatched weights can be had again."""

    what: str
    """The file's name, or "a host copy"."""
    read: Callable[[], Mapping[str, Any]]
    """Answers all that a model holds by name, on the host: see `_contents`."""


_host_copies: weakref.WeakKeyDictionary[WeightSource, dict[str, Any]] = weakref.WeakKeyDictionary()
"""The weights of each source that is one; emptied when it is let go of."""
_found: weakref.WeakKeyDictionary[torch.nn.Module, WeightSource] = weakref.WeakKeyDictionary()
"""The sources of models whose loader has left none with the patcher: nodes make a new patcher for each prompt."""


def source_of(patcher: Any) -> WeightSource | None:
    """The way to a patcher's weights; None where none is known, or it was a host copy that was let go of."""
    source: WeightSource | None = patcher.get_attachment(SOURCE) or _found.get(patcher.model)
    let_go_of = source is not None and _host_copies.get(source) == {}
    return None if let_go_of else source


def remember(patcher: Any, what: str, load: Callable[[], Any]) -> None:
    """Has a patcher remember how its model was loaded.

    Args:
        what: the file's name.
        load: loads the same model again, onto the host, and answers its module.
    """
    patcher.set_attachments(SOURCE, WeightSource(what, lambda: _contents(load())))


def allow_a_host_copy(patcher: Any) -> None:
    """Takes weights that nothing says how to read again to the host, where a copy of them is kept if there is room.

    Those of a model that was loaded while the switch was off, say.
    """
    device = patcher.model.device
    known = source_of(patcher) is not None or device in (None, HOST) or is_lost(device)
    if not known and host_room_bytes(patcher) > 3 * patcher.model_size():
        target.unload(patcher)


def make_ready(patcher: Any) -> None:
    """Before a patcher's weights are used: what was lost is recovered, what may be lost is kept.

    Raises:
        LoadError: the weights are a file's memory, and the file was cut.
        RuntimeError: as `recover` does.
    """
    recover(patcher)
    check_mapped(patcher.model.parameters())
    if patcher.model.device not in (HOST, patcher.load_device):  # another prompt has used it there, say
        target.unload(patcher)
    _let_go_of_copies(patcher.model_size())
    _keep_host_copy(patcher)


def _let_go_of_copies(needed_bytes: float) -> None:
    """Gives host copies back while host memory would not hold a model that may have to come back to it."""
    for weights in filter(None, _host_copies.values()):
        if model_management.get_free_memory(HOST) >= needed_bytes:
            return
        weights.clear()
        logging.info("XPU Nodes: main memory is short, a spare copy of weights there was given back.")


def _keep_host_copy(patcher: Any) -> None:
    """Remembers how a model that is not ours is read again, else its weights while host memory is plentiful.

    The tensors are those that the model holds on the host before it moves; only keeping them costs memory. Modules
    that nodes have put on it are small and always copied.
    """
    for patch, tensors in _patch_tensors(patcher):
        if patch not in _copies:
            _copies[patch] = {name: _detached(tensor).to(HOST) for name, tensor in tensors.items()}
    module = patcher.model
    if source_of(patcher) is not None or patcher.load_device == HOST:
        return
    initialiser = getattr(patcher, "cached_patcher_init", None)
    if initialiser is not None:
        _found[module] = WeightSource("its file", functools.partial(_read_again, initialiser))
    if initialiser is not None or patcher.backup:
        return
    weights = _contents(module)
    on_host = all(tensor.device == HOST for tensor in tensors_in(weights))
    if on_host and host_room_bytes(patcher) > 2 * patcher.model_size():
        source = WeightSource("a host copy", lambda: weights)
        _host_copies[source] = weights
        _found[module] = source


def _read_again(initialiser: Sequence[Any]) -> Mapping[str, Any]:
    with as_default(HOST):
        return _contents(target.read_again(initialiser).model)


def recover(patcher: Any) -> str:
    """Puts a patcher's model back to unpatched weights on the host if any of them were on a lost device.

    LoRA and other patches stay with the patcher and are applied again when it loads.

    Returns:
        What the weights were taken from; empty where nothing was lost.

    Raises:
        RuntimeError: the weights exist nowhere else, or host memory does not hold them.
    """
    if not lost_devices():
        return ""
    source = _recover_model(patcher)
    _recover_patches(patcher)  # their tensors are the model's own while they are on it
    return source


def _recover_model(patcher: Any) -> str:
    target.abandon(patcher)
    streaming.abandon(patcher)
    lost = _lost(patcher.model)
    if not lost and not is_lost(patcher.model.device or HOST):
        return ""
    source = _recoverable(patcher) if lost else None
    _forget_load_state(patcher)
    if source is None:
        return "main memory"
    weights = source.read()
    for name, _ in _tensors(patcher.model):
        _set_tensor(patcher.model, name, weights[name])
    for name in _lost(patcher.model):  # what is left is kept beside them
        _set_beside(patcher.model, name, weights)
    hold_again(patcher.model)
    return source.what


def _recover_patches(patcher: Any) -> None:
    """Brings back what each clone keeps for itself: its object patches, and weights computed for its hooks."""
    for patch, tensors in _patch_tensors(patcher):
        lost = [name for name, tensor in tensors.items() if is_lost(tensor.device)]
        if lost and patch not in _copies:
            raise RuntimeError(
                f"{type(patch).__name__}, which a node has put on the model, was on a device that is gone: "
                "restart ComfyUI."
            )
        for name in lost:
            _set_tensor(patch, name, _copies[patch][name])
    for hooks, weights in list(patcher.cached_hook_patches.items()):
        if any(is_lost(device) for weight, home in weights.values() for device in (weight.device, home)):
            del patcher.cached_hook_patches[hooks]


def _patch_tensors(patcher: Any) -> list[tuple[torch.nn.Module, dict[str, torch.Tensor]]]:
    """The modules among a patcher's object patches, with the tensors that are not the model's (compiled ones share)."""
    modules = [patch for patch in patcher.object_patches.values() if isinstance(patch, torch.nn.Module)]
    if not modules:
        return []
    own = {id(tensor) for _, tensor in _tensors(patcher.model)}
    return [
        (module, {name: tensor for name, tensor in _tensors(module) if id(tensor) not in own}) for module in modules
    ]


def _recoverable(patcher: Any) -> WeightSource:
    """Where weights that were lost are had again; raises as `recover` does."""
    name, source = type(patcher.model).__name__, source_of(patcher)
    if source is None:
        raise RuntimeError(
            f"The weights of {name} were on a device that is gone, and nothing says where they came from: "
            "load them with a loader of this pack, or restart ComfyUI."
        )
    needed, free = patcher.model_size(), model_management.get_free_memory(HOST)
    if needed > free:
        raise RuntimeError(
            f"The weights of {name} ({needed / 2**30:.1f} GiB) do not fit the host's free memory "
            f"({free / 2**30:.1f} GiB) after their device was lost: free memory and queue the prompt again."
        )
    return source


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """By every name that they have: what two modules share when it is made, each has for itself once it has moved."""
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


_OF_TORCH = frozenset(vars(torch.nn.Module()))
"""What every module has."""


def _beside(module: torch.nn.Module) -> list[tuple[str, Any]]:
    """What modules keep beside parameters and buffers that may hold tensors (a table, a cache), by name."""
    kinds = (torch.Tensor, list, tuple, dict, type(None))
    return [
        (f"{path}.{name}".removeprefix("."), value)
        for path, owner in module.named_modules()
        for name, value in vars(owner).items()
        if isinstance(value, kinds) and name not in _OF_TORCH
    ]


def _contents(module: torch.nn.Module) -> dict[str, Any]:
    """Everything that a model holds, by name, as it is now; what it does to itself later does not show in it."""
    beside = {name: copy.copy(value) for name, value in _beside(module) if not isinstance(value, torch.Tensor)}
    tables = [(name, value) for name, value in _beside(module) if isinstance(value, torch.Tensor)]
    return {**beside, **{name: _detached(tensor) for name, tensor in (*_tensors(module), *tables)}}


def _lost(module: torch.nn.Module) -> list[str]:
    """The names of what a model holds on a device that is gone."""
    held = (*_tensors(module), *_beside(module))
    return [name for name, value in held if any(is_lost(tensor.device) for tensor in tensors_in(value))]


def _set_beside(module: torch.nn.Module, name: str, contents: Mapping[str, Any]) -> None:
    """Gives a module back what it kept beside its weights; what it had not when it was new, it makes again."""
    owner_name, _, leaf = name.rpartition(".")
    attributes = vars(module.get_submodule(owner_name))
    if name in contents:
        attributes[leaf] = copy.copy(contents[name])
    else:
        del attributes[leaf]


def _set_tensor(module: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if leaf in owner._parameters:
        owner._parameters[leaf] = torch.nn.Parameter(_as_held(value, owner._parameters[leaf]), requires_grad=False)
    else:
        owner._buffers[leaf] = _detached(value).to(HOST)


def _as_held(value: torch.Tensor, lost: torch.Tensor | None) -> torch.Tensor:
    """The tensor on the host, in the dtype that the lost one was converted to; a quantised one as its file holds it."""
    plain = (torch.Tensor, torch.nn.Parameter)
    floats = lost is not None and lost.is_floating_point()
    if lost is None or not floats or type(value) not in plain or type(lost) not in plain:
        return _detached(value).to(HOST)
    return _detached(value).to(HOST, lost.dtype)


def _detached(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's data as an object of its own: a parameter that moves takes its new data along.

    A kind of tensor of another pack's (GGUF) may answer with itself when it is detached.
    """
    detached = tensor.detach()
    if detached is tensor:
        detached = tensor.data
        vars(detached).update(vars(tensor))
    return detached


def _forget_load_state(patcher: Any) -> None:
    """Clears what ComfyUI notes on a model while it is loaded, without touching the lost device."""
    model = patcher.model
    patcher.backup.clear()
    for newer in ("backup_buffers", "pinned"):
        getattr(patcher, newer, set()).clear()
    for name, original in list(patcher.object_patches_backup.items()):
        comfy.utils.set_attr(model, name, original)
    patcher.object_patches_backup.clear()
    _undo_hooks(patcher)
    for module in model.modules():
        comfy.model_patcher.wipe_lowvram_weight(module)
        if hasattr(module, "comfy_patched_weights"):
            del module.comfy_patched_weights
    model.device = HOST
    model.model_loaded_weight_memory = 0
    if hasattr(model, "model_offload_buffer_memory"):
        model.model_offload_buffer_memory = 0
    model.model_lowvram = False
    model.lowvram_patch_counter = 0
    model.current_weight_patches_uuid = None
    patcher.patches_uuid = uuid.uuid4()


def _undo_hooks(patcher: Any) -> None:
    """Puts back the weights that hooks (a LoRA for a part of the conditions) replaced, where both are still there."""
    for name, (original, _) in patcher.hook_backup.items():
        if not is_lost(original.device) and not is_lost(comfy.utils.get_attr(patcher.model, name).device):
            comfy.utils.copy_to_param(patcher.model, name, original)
    patcher.hook_backup.clear()
    patcher.current_hooks = None
