"""What a model keeps between a sampler's calls, in what the sampler hands it: the caches of autoregressive videos."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_STATE = "ar_state"
"""Of the model's options; the sampler makes it where the latent is, which here is the host."""


@contextlib.contextmanager
def carried_to(device: torch.device, dtype: torch.dtype, options: Mapping[str, Any]) -> Iterator[None]:
    """In the block, a model finds what it keeps on its device; a copy would not do, as it writes into it.

    It is lost with its device, and the run ends then. A block that fails leaves the counters as it found them:
    repeated, it writes the same places again.
    """
    kept = list(_mappings(options.get("transformer_options", {}).get(_STATE)))
    counters = [{name: entry for name, entry in one.items() if not isinstance(entry, torch.Tensor)} for one in kept]
    for one in kept:
        one.update({name: entry.to(device, dtype) for name, entry in one.items() if isinstance(entry, torch.Tensor)})
    try:
        yield
    except BaseException:
        for one, before in zip(kept, counters, strict=True):
            one.update(before)
        raise


def _mappings(state: Any) -> Iterator[dict[str, Any]]:
    if isinstance(state, dict):
        yield state
    for entry in state.values() if isinstance(state, dict) else state if isinstance(state, list) else ():
        yield from _mappings(entry)
