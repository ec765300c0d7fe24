"""What nodes of other packs keep for the functions that they put on a model, while the model is called.

Attention patches, step caches, masks and the like hold tensors where ComfyUI computes by default. What can be reached
from the functions is taken along when the model computes elsewhere, and back when the run ends; what lay on a device
that was lost comes back from copies in main memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import torch
from comfy.clip_vision import ClipVisionModel
from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher
from torch.utils.weak import WeakIdKeyDictionary

from ...recovery.faults import FaultKind, MisplacedError, classify, first_line, is_lost
from ...recovery.held import Held, changed, held_by
from ...recovery.ladder import LadderExhaustedError
from ..inventory import runs_on
from ..neighbours import pack_name
from ..prompts import execute_all_anew
from ..target import HOST
from .carried import STATE

MOST_MOVES = 3
"""How often all that is reached is moved in one run: a node may make it anew elsewhere each time."""

_OURS = __name__.partition("xpu_utils.")[0] + "xpu_utils."
_OF_THE_RUN = ("sample_sigmas", "sigmas")
"""Tensors among a model call's options that are the sampler's."""
_IN_THE_MODEL = ("apply_model", "diffusion_model")
"""The wrappers that are called with tensors of the model's device."""

_WITH_MODELS = (ModelPatcher, comfy.sd.VAE, comfy.sd.CLIP, ClipVisionModel, ControlBase)

_copies: Any = WeakIdKeyDictionary()
"""Tensors on a device -> their copies in main memory."""


class Patches:
    """The functions of a model's calls, and what they keep."""

    def __init__(self, patcher: Any, options: Any) -> None:
        """`options` are the model's, of which each call has a copy; with the same functions in it."""
        self._managed = {id(module) for module in patcher.model.modules()}
        self._options: Any = options
        """Those of the last call."""
        self._before: dict[Hashable, Held] = {}
        """What was held when the last call began, by its place."""
        self._led: dict[Hashable, tuple[Any, Any]] = {}
        """What was moved, by its place: as it was before the first move, and as it is now."""
        self._moves = 0

    def recover(self, device: torch.device) -> None:
        """Gets what was lost with its device to another one.

        Raises:
            LadderExhaustedError: there was no copy of it.
        """
        for held in self._of_the_model():
            if _is_lost(held):
                _recover(held, device)

    def copy(self) -> None:
        """Copies to main memory what is not there yet, while there is plenty of it."""
        _copy(self._of_the_model())

    @contextlib.contextmanager
    def where_the_model_is(self, options: Any, device: torch.device) -> Iterator[None]:
        """Surrounds a model call.

        Raises:
            LadderExhaustedError: something was lost with its device before there was a copy of it.
            MisplacedError: something is on another device; the message says whose function met it.
        """
        self._options = options
        self._prepare(device)
        try:
            with runs_on(device):
                yield
        except RuntimeError as error:
            if classify(error) is FaultKind.MISPLACED:
                raise MisplacedError(f"{_whose(error)}: {first_line(error)}") from error
            raise
        self._bring_records_to_host()

    def take_back(self) -> None:
        """After a failed call: what is held is what was held when it began, so that it may be repeated."""
        for held in self._of_the_model():
            before = self._before.get(held.place)
            if before is None:
                if _is_lost(held):
                    held.forget()
            elif before.value is not held.value:
                before.put(before.value)

    def move_all(self, device: torch.device) -> int:
        """Moves everything that is held to a device, what is in main memory too; answers how many things moved."""
        self._moves += 1
        held = list(self._of_the_model()) if self._moves <= MOST_MOVES else []
        return sum(self._lead(each, lambda tensor: _moved(tensor, device), lambda _: device) for each in held)

    def restore(self) -> None:
        """After the run, what was moved goes back, unless something else is there now or its device is gone.

        What the last call left may be asked for by the next prompt, so it is copied like the rest.
        """
        for held in self._of_the_model():
            before, now = self._led.get(held.place, (None, None))
            if now is held.value and not _is_lost(dataclasses.replace(held, value=before)):
                held.put(before)
        self._led.clear()
        self.copy()

    def _prepare(self, device: torch.device) -> None:
        """What stays in main memory while the model is on an accelerator is left there: it may be meant to."""
        found = self._of_the_model()  # anew only after a change: this precedes each call
        if any(map(_is_lost, found)):
            self.recover(device)
            found = self._of_the_model()
        _copy(found)
        led = [
            self._lead(held, lambda one: one if one.device in (HOST, device) else _moved(one, device)) for held in found
        ]
        self._before = {held.place: held for held in (self._of_the_model() if any(led) else found)}

    def _bring_records_to_host(self) -> None:
        """Guidance computes on the host, also with what an attention patch has recorded for it.

        A network of its own stays where it is: it takes its input there.
        """
        roots = [value for name, value in self._options.items() if name.startswith("sampler_")]
        for held in held_by(roots, spared=lambda one: isinstance(one, torch.nn.Module) or self._spared(one)):
            there = changed(held.value, lambda tensor: tensor.to(HOST))
            if there is not held.value:
                held.put(there)

    def _of_the_model(self) -> list[Held]:
        """What the functions hold that compute on the model's device."""
        within = self._options.get("transformer_options", {})
        wrappers = within.get("wrappers", {})
        around = [wrappers, within.get("callbacks"), within.get(STATE)]  # which no copy would be true of for long
        roots = [within, self._options.get("model_function_wrapper"), *map(wrappers.get, _IN_THE_MODEL)]
        of_the_run = [(id(within), name) for name in _OF_THE_RUN]
        found = held_by(roots, spared=lambda owner: any(owner is one for one in around) or self._spared(owner))
        return [held for held in found if held.place not in of_the_run]

    def _spared(self, owner: object) -> bool:
        """Models, which ComfyUI moves, our own functions, and what PyTorch keeps for compiled ones."""
        if id(owner) in self._managed or isinstance(owner, _WITH_MODELS):
            return True
        if str(getattr(owner, "__module__", "")).startswith((_OURS, "torch._")):
            return True
        return "load_device" in getattr(owner, "__dict__", ())  # another kind of patcher

    def _lead(
        self, held: Held, tensor: Callable[[torch.Tensor], Any], device: Callable[[torch.device], Any] | None = None
    ) -> bool:
        there = changed(held.value, tensor, device)
        if there is held.value:
            return False
        held.put(there)
        self._led[held.place] = (self._led.get(held.place, (held.value, None))[0], there)
        return True


def keep(patcher: Any) -> None:
    """Before a patcher is cloned, and the objects among its functions with it: recovers what they hold, and copies it.

    Raises:
        LadderExhaustedError: it was lost before there was a copy of it.
    """
    patches = Patches(patcher, patcher.model_options)
    patches.recover(patcher.load_device)
    patches.copy()


def _copy(found: list[Held]) -> None:
    kept = (tensor for held in found for tensor in held.tensors())
    new = [tensor for tensor in kept if tensor.device != HOST and tensor not in _copies]
    new = [tensor for tensor in new if not is_lost(tensor.device)]
    if new and 3 * sum(tensor.nbytes for tensor in new) < model_management.get_free_memory(HOST):
        for tensor in new:
            _copies[tensor] = tensor.to(HOST)


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on another device, which has the same copy."""
    there = tensor.to(device)
    if device != HOST and tensor in _copies:
        _copies[there] = _copies[tensor]
    return there


def _is_lost(held: Held) -> bool:
    return any(is_lost(tensor.device) for tensor in held.tensors())


def _recover(held: Held, device: torch.device) -> None:
    lost = next((tensor for tensor in held.tensors() if is_lost(tensor.device) and tensor not in _copies), None)
    if lost is not None:
        execute_all_anew()
        raise LadderExhaustedError(
            f"A node of another pack kept data on {lost.device}, which is gone: queue the prompt again, its nodes are "
            "then executed anew."
        )
    held.put(changed(held.value, lambda tensor: _copies[tensor].to(device) if is_lost(tensor.device) else tensor))


def _whose(error: BaseException) -> str:
    """The innermost function of a pack that an error came through, by the path that ComfyUI names its module by."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [(str(frame.f_globals.get("__name__", "")), frame.f_code.co_name) for frame in frames]
    packs = [(pack_name(module), name) for module, name in names if pack_name(module) and not module.startswith(_OURS)]
    return f"{packs[-1][1]} of {packs[-1][0]}" if packs else "ComfyUI"
