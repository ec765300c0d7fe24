"""MODELs larger than their device: ComfyUI's patcher that loads through a weight stream.

The patcher's class gets one subclass that decides in `load` whether everything fits; what does not is left to
`xpu_utils.streaming.stream`. ComfyUI's own `load` still applies LoRA and other patches, once, to the weights on the
host.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as model_management
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP

from ..calls import Call
from ..decision import Streaming, streaming_for
from ..recovery.faults import lost_devices
from ..streaming.leaves import collect_leaves, opaque_kind
from ..streaming.lesson import Lesson
from ..streaming.plan import ring_size
from ..streaming.stream import WeightStream
from ..weights.mapped import check_mapped
from ..weights.pinned import PinnedPool, shared_pool
from . import hooks
from .inventory import host_inventory
from .neighbours import distributed
from .target import HOST, is_dynamic

HOOK = hooks.named("weight streaming")
ATTACHMENT = "xpu_nodes.streaming"
"""Key of the attachment, the injection, the callback and the wrapper on a patcher."""

_APPLIED = "weights that do not fit the device are copied there while it computes"
_SHARED_OUT = "DisTorch has shared the model out among devices"

_LOAD = ("device_to", "lowvram_model_memory", "force_patch_weights", "full_load")
_PATCH = ("key", "device_to")
_UNPATCH = ("device_to", "unpatch_weights")
_UNLOAD = ("device_to", "memory_to_free")
"""The first parameters of the host's methods."""

Lessons = dict[tuple[object, ...], Lesson]
_lessons: Lessons = {}
"""What streams have learnt in this process, by device and by names and sizes of the leaves: a few KB each."""


def attach(model: Any, streaming: Streaming, *, pool: PinnedPool | None = None, lessons: Lessons | None = None) -> None:
    """Has a MODEL's weights stream to its device as far as they do not stay there.

    Where they cannot, it stays as it is; `hooks` has the reason.

    Args:
        model: a MODEL that nobody else has, and whose `load_device` is final.
        pool: where weights are page-locked; the process's if none is given.
        lessons: what streams learn; the process's if none are given.
    """
    if hooks.switched_off(HOOK):
        return
    if streaming.obstacle:
        hooks.record(HOOK, hooks.State.STOOD_DOWN, streaming.obstacle)
        return
    if not isinstance(model, StreamingPatcher):
        base: Any = type(model)
        model.__class__ = _streaming_class(base)
    model.is_injected = False
    sessions = _Sessions(streaming.share, pool or shared_pool(), _lessons if lessons is None else lessons)
    model.set_attachments(ATTACHMENT, sessions)
    model.set_injections(ATTACHMENT, [PatcherInjection(inject=_inject, eject=_eject)])
    model.remove_callbacks_with_key(CallbacksMP.ON_DETACH, ATTACHMENT)
    model.add_callback_with_key(CallbacksMP.ON_DETACH, ATTACHMENT, _detached)
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, ATTACHMENT)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, ATTACHMENT, sessions.call_model)
    _note(model, _APPLIED)


def _note(model: Any, does: str) -> None:
    """Lists what streaming does for a MODEL."""
    attached = weakref.ref(model)
    hooks.record(HOOK, hooks.State.APPLIED, does, in_force=lambda: not distributed(attached()), otherwise=_SHARED_OUT)


def obstacle(model: Any) -> str:
    """What in a MODEL keeps its weights from streaming; empty where nothing does."""
    if hooks.switched_off(HOOK):
        return f"{HOOK} is switched off"
    if not hasattr(model.model, "diffusion_model"):
        return "only diffusion models stream"
    if "diffusion_model" in model.object_patches:
        return "another node has replaced the diffusion model (compiled it, say)"
    if distributed(model):
        return _SHARED_OUT
    unknown = opaque_kind(model.model.diffusion_model)
    return f"nothing tells of what {unknown} tensors are made" if unknown else ""


def may_stream(model: Any, resident: str) -> bool:
    """Whether a MODEL that is placed so streams where its weights do not fit; it need not be attached yet."""
    device = host_inventory().find(str(model.load_device))
    if device is None:
        return False
    streaming = streaming_for(device, resident, dynamic=is_dynamic(model), obstacle=obstacle(model))
    return streaming.share != 1 and not streaming.obstacle


def stream_of(model: Any) -> WeightStream | None:
    """The stream that a MODEL's weights are in; None where they are in none."""
    return None if model.get_attachment(ATTACHMENT) is None else _session(model).stream


def leave_free(model: Any, work_bytes: int) -> None:
    """Has a MODEL's weights leave so much of the device to the work, whatever ComfyUI grants them from now on."""
    if model.get_attachment(ATTACHMENT) is not None:
        _session(model).left_free_bytes = work_bytes


def abandon(model: Any) -> None:
    """Puts a MODEL's weights back to the unpatched ones on the host if their device is lost; asks nothing of it."""
    stream = stream_of(model)
    if stream is None or str(stream.device) not in lost_devices():
        return
    _session(model).close(lost=True)
    for key, kept in model.backup.items():
        comfy.utils.set_attr_param(model.model, key, kept.weight)


class _Sessions:
    """What the clones of a patcher share: how their weights stream, and for each model that they hold, where it is.

    They hold several where ComfyUI makes a copy of the model for another device; on some versions it takes a clone
    and gives it the copy's model afterwards.
    """

    def __init__(self, share: float | None, pool: PinnedPool, lessons: Lessons) -> None:
        self._share, self._pool, self._lessons = share, pool, lessons
        self._sessions: weakref.WeakKeyDictionary[torch.nn.Module, _Session] = weakref.WeakKeyDictionary()

    def of(self, weights: torch.nn.Module) -> _Session:
        """The session of a model."""
        if weights not in self._sessions:
            self._sessions[weights] = _Session(self._share, self._pool, self._lessons)
        return self._sessions[weights]

    def call_model(self, executor: Any, /, *arguments: Any, **keywords: Any) -> Any:
        """An APPLY_MODEL wrapper: whatever ends the call ends the pass, ComfyUI's interrupt too (no `Exception`)."""
        stream = self.of(executor.class_obj).stream
        try:
            return executor(*arguments, **keywords)
        finally:
            if stream is not None:
                stream.end_pass()


def _session(model: Any) -> _Session:
    sessions: _Sessions = model.get_attachment(ATTACHMENT)
    return sessions.of(model.model)


class _Session:
    """The stream of one model."""

    def __init__(self, share: float | None, pool: PinnedPool, lessons: Lessons) -> None:
        self.share = share
        self._pool, self._lessons = pool, lessons
        self.stream: WeightStream | None = None
        self.owner: Callable[[], Any] = lambda: None
        """The clone that was loaded last, while it lives."""
        self.patching_device: torch.device | None = None
        """Set while ComfyUI loads to the host: where patches are computed all the same."""
        self._kept_bytes = 0
        self.left_free_bytes = 0
        """What the work is known to take beside the weights; 0 where ComfyUI's estimate has sufficed."""

    def fits(self, model_bytes: int, available_bytes: float) -> bool:
        """Whether all weights stay on the device."""
        return available_bytes >= model_bytes if self.share is None else self.share >= 1

    def may_be_closed_by(self, model: Any) -> bool:
        """Whether no other clone is loaded: ComfyUI ejects and detaches every clone that is dropped."""
        return self.owner() in (None, model)

    @property
    def device_bytes(self) -> int:
        """What the stream takes on the device once it has settled."""
        return 0 if self.stream is None else self._kept_bytes + self.stream.ring_bytes + self.stream.budget_bytes

    def open(self, model: Any, device: torch.device, available_bytes: float) -> None:
        """Takes the weights over: large ones are streamed from where they are on the host, all others move.

        Raises:
            LoadError: a file that weights are mapped from was cut.
        """
        root = model.model.diffusion_model
        check_mapped(root.parameters())
        leaves = collect_leaves(root, streamable=lambda module: hasattr(module, "comfy_cast_weights"))
        self._kept_bytes = max(0, model.model_size() - sum(leaf.size_bytes for leaf in leaves))
        ring_bytes = ring_size([leaf.size_bytes for leaf in leaves], available_bytes)
        resident_bytes = self._resident_bytes(model.model_size(), available_bytes - ring_bytes)
        _move_others(model.model, {leaf.module for leaf in leaves}, device)
        shape = (str(device), *((leaf.name, leaf.size_bytes) for leaf in leaves))
        self.stream = WeightStream(
            root,
            leaves,
            device,
            pool=self._pool,
            ring_bytes=ring_bytes,
            resident_bytes=resident_bytes,
            lesson=self._lessons.get(shape),
        )
        self._shape = shape

    def _resident_bytes(self, model_bytes: int, available_bytes: float) -> int:
        wanted_bytes = available_bytes if self.share is None else min(available_bytes, self.share * model_bytes)
        return max(0, int(wanted_bytes) - self._kept_bytes)

    def resize(self, model_bytes: int, available_bytes: float) -> None:
        """Gives the open stream another amount of memory."""
        assert self.stream is not None
        self.stream.set_budget(self._resident_bytes(model_bytes, available_bytes - self.stream.ring_bytes))

    def close(self, *, lost: bool = False) -> None:
        """Gives the device's memory back and keeps what was learnt."""
        if self.stream is not None:
            self.stream.release(lost=lost)
            if self.stream.lesson is not None:
                self._lessons[self._shape] = self.stream.lesson
            self.stream = None


def _move_others(model: torch.nn.Module, streamed: set[torch.nn.Module], device: torch.device) -> None:
    for module in model.modules():
        if module not in streamed:
            module._apply(lambda tensor: tensor.to(device), recurse=False)


class StreamingPatcher:
    """Mixed into a patcher's class by `attach`: what ComfyUI's memory management asks, answered by the stream."""

    def clone(self: Any, *arguments: Any, **keywords: Any) -> Any:
        """ComfyUI's or another pack's clone, which streams as well."""
        copy = super().clone(*arguments, **keywords)  # type: ignore[misc]
        if type(copy) in type(self).__mro__:  # packs whose `clone` sets the class (GGUF) know nothing of ours
            copy.__class__ = type(self)
        return copy

    def load(self: Any, *arguments: Any, **keywords: Any) -> None:
        """Loads all weights as ComfyUI does if they fit, else opens the stream."""
        call, stock_load = Call(_LOAD, arguments, keywords), super().load  # type: ignore[misc]
        device_to = call.get("device_to") or self.model.device or HOST  # none is named: where the weights are
        lowvram_model_memory = call.get("lowvram_model_memory", 0)
        force_patch_weights, full_load = call.get("force_patch_weights", False), call.get("full_load", False)
        session = _session(self)
        session.owner = weakref.ref(self)
        available_bytes = float("inf") if full_load else lowvram_model_memory
        if session.left_free_bytes and device_to.type != "cpu":
            room_bytes = model_management.get_free_memory(device_to) + self.loaded_size()
            available_bytes = min(available_bytes, max(0, room_bytes - session.left_free_bytes))
        if device_to.type == "cpu" or session.fits(self.model_size(), available_bytes):
            session.close()
            call.changed(device_to=device_to, full_load=True).on(stock_load)
            return
        unchanged = self.model.current_weight_patches_uuid == self.patches_uuid and not force_patch_weights
        if session.stream is not None and unchanged:
            self.unpatch_hooks()
            session.resize(self.model_size(), available_bytes)
            self.apply_hooks(self.forced_hooks, force_apply=True)
        else:
            session.close()
            with _loading_to_host(self, session, device_to):
                call.changed(device_to=HOST, lowvram_model_memory=0, full_load=True).on(stock_load)
            session.open(self, device_to, available_bytes)
            for callback in self.get_all_callbacks(CallbacksMP.ON_LOAD):
                callback(self, device_to, lowvram_model_memory, force_patch_weights, full_load)
        self.model.device = device_to
        self.model.model_lowvram = True
        self.model.model_loaded_weight_memory = session.device_bytes
        logging.info("XPU Nodes: %s", _summary(self, session))

    def patch_weight_to_device(self: Any, *arguments: Any, **keywords: Any) -> Any:
        """Applies a weight's patches; while loading to the host, on the device all the same, as a full load does."""
        session = _session(self)
        stock_patch = super().patch_weight_to_device  # type: ignore[misc]
        call = Call(_PATCH, arguments, keywords)
        key = call.get("key")
        if session.patching_device is None or key not in self.patches:
            return call.on(stock_patch)
        result = call.changed(device_to=session.patching_device).on(stock_patch)
        comfy.utils.set_attr_param(self.model, key, comfy.utils.get_attr(self.model, key).to(HOST))
        return result

    def unpatch_model(self: Any, *arguments: Any, **keywords: Any) -> None:
        """ComfyUI's; whoever takes the weights to the host has what the stream holds of the device back as well."""
        call, session = Call(_UNPATCH, arguments, keywords), _session(self)
        call.on(super().unpatch_model)  # type: ignore[misc]
        if call.get("device_to") == HOST and call.get("unpatch_weights", True) and session.may_be_closed_by(self):
            session.close()

    def partially_unload(self: Any, *arguments: Any, **keywords: Any) -> int:
        """Gives back resident weights; the stream carries on with less."""
        session = _session(self)
        stream = session.stream
        call = Call(_UNLOAD, arguments, keywords)
        if stream is None:
            return int(call.on(super().partially_unload))  # type: ignore[misc]
        freed_bytes = stream.set_budget(int(stream.held_bytes - call.get("memory_to_free", 0)))
        self.model.model_loaded_weight_memory = session.device_bytes
        return int(freed_bytes)


@functools.cache
def _streaming_class(base: type) -> type:
    return type(f"Streaming{base.__name__}", (StreamingPatcher, base), {})


@contextmanager
def _loading_to_host(model: Any, session: _Session, device: torch.device) -> Iterator[None]:
    """For the block, loading to the host patches weights on the device, and nobody is told of it."""
    told: dict[str, list[Callable[..., None]]] | None = model.callbacks.pop(CallbacksMP.ON_LOAD, None)
    session.patching_device = device
    try:
        yield
    finally:
        session.patching_device = None
        if told is not None:
            model.callbacks[CallbacksMP.ON_LOAD] = told


def _inject(model: Any, *_: Any) -> None:
    stream = _session(model).stream
    if stream is not None:
        keys = {key for patches in model.hook_patches.values() for key in patches}
        stream.install(refresh={key.removeprefix("diffusion_model.").rpartition(".")[0] for key in keys})


def _eject(model: Any, *_: Any) -> None:
    session = _session(model)
    stream = session.stream
    if stream is not None and session.may_be_closed_by(model):
        if model.hook_patches:  # they are written into the host's weights, which queued copies may still read
            torch.accelerator.synchronize(stream.device)
        stream.remove()
        if stream.refused:
            _note(model, f"{_APPLIED}, in part from memory that is not locked, which is slower: {stream.refused}")


def _detached(model: Any, unpatch_all: bool, *_: Any) -> None:
    """Whoever loads the weights next finds them as they were, wherever that is."""
    session = _session(model)
    if session.stream is None or not session.may_be_closed_by(model):
        return
    session.close()
    if not unpatch_all:
        model.unpatch_model(HOST, unpatch_weights=True)


def _summary(model: Any, session: _Session) -> str:
    stream = session.stream
    assert stream is not None
    share = min(1.0, (session.device_bytes - stream.ring_bytes) / max(model.model_size(), 1))
    return (
        f"{type(model.model).__name__}: {share:.0%} of {model.model_size() / 1e9:.2f} GB stays on {stream.device}, "
        f"the rest streams through {stream.ring_bytes >> 20} MiB."
    )
