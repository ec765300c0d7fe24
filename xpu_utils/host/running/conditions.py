"""What a model call is given beside the latent, on the host between calls and on a device during them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from ...recovery.faults import is_lost
from ...weights.check import first_not_finite, tensors_in
from ..target import HOST, unload
from .companions import chain

CONDITION_LISTS = 16
"""Lists of conditions kept on the device between steps."""


class DeviceConditions:
    """Copies of lists of conditions on the device of the model, kept while it stays there."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[Any, Any]] = {}
        """id of a list -> (the list, its copy)."""

    def on(self, conditions: Any, device: torch.device) -> Any:
        """The list itself on the host, else its copy on the device."""
        if device == HOST or conditions is None:
            return conditions
        if len(self._copies) > CONDITION_LISTS:  # a node makes new lists at every step
            self._copies.clear()
        if id(conditions) not in self._copies:
            self._copies[id(conditions)] = (conditions, moved(conditions, device))
        return self._copies[id(conditions)][1]

    def forget(self) -> None:
        """Drops the copies: their device failed, or the model leaves it."""
        self._copies.clear()


def count(conds: Iterable[Any]) -> int:
    """How many conditions there are in the lists, or None, that a model call is given."""
    return sum(len(cond or ()) for cond in conds)


def moved(value: Any, device: torch.device) -> Any:
    """A copy of a nest of dicts, lists, tuples and conditions with every tensor on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(entry, device) for key, entry in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(moved(entry, device) for entry in value)
    if hasattr(value, "_copy_with") and hasattr(value, "cond"):  # one of comfy.conds' classes
        there = copy.copy(value)
        there.cond = moved(value.cond, device)
        return there
    return value


@contextlib.contextmanager
def keyframes_on_host(conditions: Iterable[Any], timestep: torch.Tensor) -> Iterator[None]:
    """Has hook keyframes remember on the host, where any device compares with it, of which time the last call was.

    ComfyUI keeps that as the tensor that a call in the block is given, also between prompts.

    Args:
        conditions: lists of conditions, or None, as a model call is given them.
        timestep: the call's, on any device.
    """
    entries = [entry for listed in conditions for entry in listed or ()]
    groups = [hook.hook_keyframe for entry in entries for hook in getattr(entry.get("hooks"), "hooks", ())]
    for group in groups:
        _remember(group, lambda last: -1.0 if is_lost(last.device) else last.to(HOST))  # as before any call
    try:
        yield
    finally:
        for group in groups:
            _remember(group, lambda _: timestep[0].to(HOST))


def _remember(group: Any, time: Callable[[torch.Tensor], object]) -> None:
    last = getattr(group, "_curr_t", None)
    if isinstance(last, torch.Tensor) and last.device != HOST:
        group._curr_t = time(last)


def damaged(conds: Iterable[Any], patcher: Any) -> str:
    """Why a model call cannot answer numbers: a file that is damaged; empty where none is."""
    entries = [entry for cond in conds for entry in cond or ()]
    for entry in entries:
        given = tensors_in([entry.get(name) for name in ("cross_attn", "pooled_output")])
        if first_not_finite(("", tensor) for tensor in given) is not None:
            return "The conditioning holds NaN: the text encoder's file is damaged, load another one."
    controls = [control for entry in entries for control in chain(entry.get("control"))]
    for net in (net for control in controls for net in control.get_models()):
        weight = first_not_finite(net.model.state_dict())
        if weight:
            return f"The ControlNet's weights hold NaN ({weight}): its file is damaged, download it again."
    weight = first_not_finite(patcher.model_state_dict())
    if weight:
        unload(patcher)
        return f"The model's weights hold NaN ({weight}): its file is damaged, download it again."
    return ""
