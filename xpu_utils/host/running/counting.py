"""A progress bar that counts the tiles of ComfyUI's own functions."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import comfy.utils


def tiles_of(stock: Callable[..., Any], *arguments: Any, **keywords: Any) -> int:
    """How many tiles one of the host's functions in space and time lays, when it is called so."""
    bound = inspect.signature(stock).bind(*arguments, **keywords)
    bound.apply_defaults()
    asked = bound.arguments
    shape = next(iter(asked.values())).shape
    tile = (asked["tile_t"], asked["tile_x"], asked["tile_y"])
    return int(shape[0] * math.prod(map(_positions, shape[2:], tile, asked["overlap"])))


@contextlib.contextmanager
def counting(model: Any, method: str, tiles: int) -> Iterator[None]:
    """Counts the calls of a model's method in the block, one for each tile."""
    bar = comfy.utils.ProgressBar(tiles)
    stock, of_instance = getattr(model, method), method in vars(model)

    def counted(*arguments: Any, **keywords: Any) -> Any:
        result = stock(*arguments, **keywords)
        bar.update(1)
        return result

    setattr(model, method, counted)
    try:
        yield
    finally:
        if of_instance:
            setattr(model, method, stock)
        else:
            delattr(model, method)


def _positions(size: int, tile: int, overlap: int) -> int:
    """How many tiles ComfyUI's `tiled_scale_multidim` lays along a direction."""
    return len(range(0, size - overlap, tile - overlap)) if size > tile else 1
