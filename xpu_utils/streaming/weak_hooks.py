"""Hooks on modules that do not keep their owner alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Owner = TypeVar("Owner")


def weak_hook(owner: Owner, method: Callable[..., None], *arguments: object) -> Callable[..., None]:
    """A hook of any kind that calls `method(owner, *arguments)` while the owner lives."""
    reference = weakref.ref(owner)

    def hook(*_: object) -> None:
        alive = reference()
        if alive is not None:
            method(alive, *arguments)

    return hook


def weak_output_hook(owner: Owner, method: Callable[[Owner, object], None]) -> Callable[..., None]:
    """A forward hook that calls `method(owner, output)`; with `always_call`, a failed forward has the output None."""
    reference = weakref.ref(owner)

    def hook(_module: nn.Module, _arguments: object, output: object) -> None:
        alive = reference()
        if alive is not None:
            method(alive, output)

    return hook
