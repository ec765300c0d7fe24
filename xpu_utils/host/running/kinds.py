"""Our classes over the host's, and over what other packs have made of those."""

from __future__ import annotations

from typing import Any, TypeVar

Placed = TypeVar("Placed")


def placed_as(ours: type[Placed], thing: Any) -> Placed:
    """An object of our class over the same weights and with the same attributes; another pack's methods stay in it."""
    kind = _over(ours, type(thing))
    placed: Placed = object.__new__(kind)
    vars(placed).update(vars(thing))
    return placed


def _over(ours: type, kind: type) -> type:
    """Our class where it extends that kind, which is the host's; else one class of both."""
    if issubclass(kind, ours):
        return kind
    return ours if issubclass(ours, kind) else type(kind.__name__, (ours, kind), {})
