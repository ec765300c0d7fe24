"""What a model keeps between a sampler's calls, in what the sampler hands it: the caches of autoregressive videos.

The sampler makes them where the latent is, which here is the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from ...calls import Call
from ...recovery.faults import is_lost

STATE = "ar_state"
"""Of the model's options."""
_PART = "start_frame"
"""The part of the video that a call is about. Its last call leaves in the caches what later parts read."""


class Carried:
    """What is kept in one run, on the model's device.

    The model writes into the tensors; how far they are filled it writes into mappings that each attempt at a call has
    of its own. The sampler gets these with the answer: an attempt that fails, or is left behind and goes on one day,
    changes nothing of its, and the next one writes the same places again.
    """

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        """The last of each part."""

    def on(self, device: torch.device, dtype: torch.dtype, call: Call, repeat: Callable[[Call], object]) -> Call:
        """An attempt at a call, with what the model keeps on its device; what was lost with another is computed again.

        Args:
            call: of `calc_cond_batch`.
            repeat: does an earlier one again, there.
        """
        state = _state(call)
        if not state:
            return call
        if any(is_lost(tensor.device) for kept in _mappings(state.values()) for tensor in _tensors(kept).values()):
            return _about(call, self._computed_again(state, device, dtype, repeat))
        return _about(call, _own(state, lambda tensor: tensor.to(device, dtype)))

    def answered(self, call: Call, attempt: Call) -> None:
        """Gives the sampler what the model has written in the attempt that answered its call."""
        state = _state(call)
        if not state:
            return
        for kept, own in _pairs(state, _state(attempt)):
            kept.update(own)
        self._calls[state[_PART]] = _about(call, {_PART: state[_PART]})

    def _computed_again(
        self, state: Mapping[str, Any], device: torch.device, dtype: torch.dtype, repeat: Callable[[Call], object]
    ) -> Mapping[str, Any]:
        """By the calls that wrote what no other has written over."""
        again = _own(state, lambda tensor: torch.zeros(tensor.shape, device=device, dtype=dtype))
        for own in _mappings(again.values()):
            own.update({name: 0 for name, entry in own.items() if isinstance(entry, int)})
        for call in self._calls.values():
            repeat(_about(call, {**again, **_state(call)}))
        for kept, own in _pairs(state, again):
            own.update({name: entry for name, entry in kept.items() if not isinstance(entry, torch.Tensor)})
        return again


def _state(call: Call) -> Mapping[str, Any]:
    return call.get("model_options").get("transformer_options", {}).get(STATE) or {}


def _about(call: Call, state: Mapping[str, Any]) -> Call:
    """The call with another state, in options of its own: the sampler goes on to other parts with the same ones."""
    options = call.get("model_options")
    return call.changed(
        model_options={**options, "transformer_options": {**options["transformer_options"], STATE: state}}
    )


def _own(entries: Any, tensor: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same with other mappings and lists, and other tensors in them."""
    if isinstance(entries, dict):
        return {name: _own(entry, tensor) for name, entry in entries.items()}
    if isinstance(entries, list):
        return [_own(entry, tensor) for entry in entries]
    return tensor(entries) if isinstance(entries, torch.Tensor) else entries


def _pairs(state: Mapping[str, Any], own: Mapping[str, Any]) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    return zip(_mappings(state.values()), _mappings(own.values()), strict=True)


def _tensors(one: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: entry for name, entry in one.items() if isinstance(entry, torch.Tensor)}


def _mappings(entries: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if isinstance(entry, dict):
            yield entry
        elif isinstance(entry, list):
            yield from _mappings(entry)
