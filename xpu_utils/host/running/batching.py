"""How many conditions ComfyUI computes in one model call, which it decides by what it reckons a call to take."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...recovery.watch import undone

_OVER_ESTIMATE = 1.8
"""ComfyUI asks for 1.5 times its own estimate, which for SDXL is 1.5 times what a call takes (0.35 GB of 0.52)."""


def one_condition_a_batch(model: Any) -> contextlib.AbstractContextManager[None]:
    """Has ComfyUI find in the block that no two conditions fit together."""
    return _reckoning(model, lambda *_: float("inf"))


def at_most(model: Any, rows: int) -> contextlib.AbstractContextManager[None]:
    """Has ComfyUI find in the block that no more than so many rows of the latent fit into one model call."""
    return _reckoning(model, lambda stock_bytes, shape: float("inf") if shape[0] > rows else stock_bytes)


def conditions_together(model: Any) -> contextlib.AbstractContextManager[None]:
    """Has ComfyUI batch in the block what really fits, for models whose weights cross the link once for each call.

    By its own figure the conditions of most pictures are computed one by one on a card that is nearly full, and which
    are depends on what is free at the moment.
    """
    return _reckoning(model, lambda stock_bytes, _: stock_bytes / _OVER_ESTIMATE)


def at_least(model: Any, work_bytes: float) -> contextlib.AbstractContextManager[None]:
    """Has ComfyUI reckon in the block that work takes so much at least."""
    return _reckoning(model, lambda stock_bytes, _: max(stock_bytes, work_bytes))


@contextlib.contextmanager
def _reckoning(model: Any, changed: Callable[[float, Sequence[int]], float]) -> Iterator[None]:
    own = vars(model).get("memory_required")  # there where another pack has put its own on the object
    stock = model.memory_required

    def restore() -> None:
        del model.memory_required
        if own is not None:
            model.memory_required = own

    def ours(input_shape: Sequence[int], *arguments: Any, **keywords: Any) -> float:
        return changed(stock(input_shape, *arguments, **keywords), input_shape)

    model.memory_required = ours
    with undone(restore):
        yield
