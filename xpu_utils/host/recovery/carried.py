"""What a model keeps between a sampler's calls, in what the sampler hands it: the caches of autoregressive videos.

The sampler makes them where the latent is, which here is the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...calls import Call
from ...recovery.faults import is_lost

STATE = "ar_state"
"""Of the model's options."""
_PART = "start_frame"
"""The part of the video that a call is about. Its last call leaves in the caches what later parts read."""


class Carried:
    """What is kept in one run, on the model's device; a copy would not do, as the model writes into it."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        """The last of each part."""
        self._lost = False
        """Until all of it is computed again."""

    @contextlib.contextmanager
    def to(
        self, device: torch.device, dtype: torch.dtype, call: Call, repeat: Callable[[Call], object]
    ) -> Iterator[None]:
        """In the block, the model finds what it keeps on its device; what was lost with another is computed again.

        A block that fails leaves the counters as it found them: repeated, it writes the same places again.

        Args:
            call: of `calc_cond_batch`.
            repeat: does an earlier one again, there.
        """
        state = call.get("model_options").get("transformer_options", {}).get(STATE)
        if state is None:
            yield
            return
        kept = list(_mappings([*state.values()]))
        counters = [{name: entry for name, entry in one.items() if not isinstance(entry, torch.Tensor)} for one in kept]
        try:
            self._lost |= any(is_lost(tensor.device) for one in kept for tensor in _tensors(one).values())
            if self._lost:
                self._compute_again(kept, device, dtype, repeat)
                self._lost = False
            for one, found in zip(kept, counters, strict=True):
                one.update({name: tensor.to(device, dtype) for name, tensor in _tensors(one).items()} | found)
            yield
        except BaseException:
            for one, found in zip(kept, counters, strict=True):
                one.update(found)
            raise
        self._calls[state[_PART]] = _about(call, dict(state))

    def _compute_again(
        self, kept: list[dict[str, Any]], device: torch.device, dtype: torch.dtype, repeat: Callable[[Call], object]
    ) -> None:
        """By the calls that wrote what no other has written over."""
        for one in kept:
            one.update({name: 0 for name, entry in one.items() if isinstance(entry, int)})
            tensors = _tensors(one).items()
            one.update({name: torch.zeros(tensor.shape, device=device, dtype=dtype) for name, tensor in tensors})
        for call in self._calls.values():
            repeat(call)


def _about(call: Call, state: dict[str, Any]) -> Call:
    """The same call about the part that the state tells of: the sampler goes on to others with the same options."""
    options = call.get("model_options")
    return call.changed(
        model_options={**options, "transformer_options": {**options["transformer_options"], STATE: state}}
    )


def _tensors(one: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: entry for name, entry in one.items() if isinstance(entry, torch.Tensor)}


def _mappings(entries: list[Any]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if isinstance(entry, dict):
            yield entry
        elif isinstance(entry, list):
            yield from _mappings(entry)
