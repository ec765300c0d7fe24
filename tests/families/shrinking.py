"""Has the host's own constructors make small networks of what is large in reality."""

from __future__ import annotations

import contextlib
import functools
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch

Sizes = Mapping[str, Mapping[str, Any]]
"""Arguments by class, with its module; one that a host has not is left out."""


@contextlib.contextmanager
def shrunk(sizes: Sizes) -> Iterator[None]:
    """In the block, these classes are made with these arguments, whatever else they are given."""
    with contextlib.ExitStack() as patches:
        for name, arguments in sizes.items():
            with contextlib.suppress(ImportError, AttributeError):
                kind = pkgutil.resolve_name(name)
                patches.enter_context(mock.patch.object(kind, "__init__", _given(kind.__init__, arguments)))
        yield


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """In the block, what a file holds tells only of which class a model is: its weights are not taken over."""
    nothing = torch.nn.modules.module._IncompatibleKeys([], [])
    with mock.patch.object(torch.nn.Module, "load_state_dict", return_value=nothing):
        yield


def _given(stock: Callable[..., None], arguments: Mapping[str, Any]) -> Callable[..., None]:
    names = list(inspect.signature(stock).parameters)[1:]
    takes_any = any(entry.kind is entry.VAR_KEYWORD for entry in inspect.signature(stock).parameters.values())
    known = {name: value for name, value in arguments.items() if takes_any or name in names}  # older hosts have fewer

    @functools.wraps(stock)
    def made(self: Any, *positional: Any, **keywords: Any) -> None:
        given = {**dict(zip(names, positional, strict=False)), **keywords}
        for name, value in known.items():
            given[name] = {**given.get(name, {}), **value} if isinstance(value, dict) else value
        stock(self, **given)

    return made
