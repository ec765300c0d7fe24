"""Tensors that functions and objects of other people keep for themselves, and the places where they are kept."""

from __future__ import annotations

import dataclasses
import functools
import operator
import types
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import torch

LARGEST_SEARCH = 5000
"""Objects looked at for one function: what keeps more is no patch any more."""

Put = Callable[[Any], None]


@dataclasses.dataclass(frozen=True)
class Held:
    """A tensor, a device, or a tuple with some, and the variable, attribute or entry that it is the value of."""

    place: Hashable
    """The same for the same place."""
    value: Any
    put: Put
    """Puts another value there."""
    forget: Callable[[], None]
    """Leaves the place as if nothing had been put there yet."""

    def tensors(self) -> list[torch.Tensor]:
        """The tensors in it."""
        found: list[torch.Tensor] = []
        changed(self.value, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found


def held_by(root: object, *, spared: Callable[[object], bool]) -> Iterator[Held]:
    """What can be reached from a function or object: variables it shares, its attributes, and dicts and lists in them.

    Args:
        spared: whether an object, and what only it reaches, is left out.
    """
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting and len(seen) < LARGEST_SEARCH:
        owner = waiting.pop()
        if id(owner) in seen or spared(owner):
            continue
        seen[id(owner)] = owner
        for held in _places(owner):
            if _has_place(held.value):
                yield held
            else:
                waiting.append(held.value)
        waiting.extend(_parts(owner))


def changed(
    value: Any, tensor: Callable[[torch.Tensor], Any], device: Callable[[torch.device], Any] | None = None
) -> Any:
    """A held value with its tensors, and devices, as the functions answer them; parameters stay parameters."""
    if isinstance(value, torch.nn.Parameter):
        new = tensor(value)
        return new if new is value else torch.nn.Parameter(new, requires_grad=False)
    if isinstance(value, torch.Tensor):
        return tensor(value)
    if isinstance(value, torch.device):
        return value if device is None else device(value)
    if isinstance(value, tuple):
        entries = [changed(entry, tensor, device) for entry in value]
        same = all(new is old for new, old in zip(entries, value, strict=True))
        return value if same else type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def _has_place(value: object) -> bool:
    """Whether it is one of the values that are held."""
    if isinstance(value, tuple):
        return any(map(_has_place, value))
    return isinstance(value, (torch.Tensor, torch.device))


def _places(owner: object) -> Iterator[Held]:
    if isinstance(owner, dict):
        for key, value in list(owner.items()):
            yield Held(
                (id(owner), key),
                value,
                functools.partial(operator.setitem, owner, key),
                functools.partial(owner.pop, key),
            )
    elif isinstance(owner, list):
        for number, value in enumerate(owner):
            put = functools.partial(operator.setitem, owner, number)
            yield Held((id(owner), number), value, put, functools.partial(put, None))
    elif isinstance(owner, types.FunctionType):
        for cell in owner.__closure__ or ():
            put = functools.partial(setattr, cell, "cell_contents")
            try:
                yield Held(id(cell), cell.cell_contents, put, functools.partial(put, None))
            except ValueError:  # a variable without a value yet
                continue


def _parts(owner: object) -> Iterable[object]:
    """What belongs to an object and is no place by itself."""
    if isinstance(owner, types.MethodType):
        return (owner.__self__, owner.__func__)
    if isinstance(owner, functools.partial):
        return (owner.func, owner.args, owner.keywords)
    if isinstance(owner, types.FunctionType):
        return (owner.__defaults__, owner.__kwdefaults__, vars(owner))
    if isinstance(owner, (tuple, set, frozenset)):
        return owner
    if isinstance(owner, (types.ModuleType, type, torch.Tensor)) or not hasattr(owner, "__dict__"):
        return ()
    return (vars(owner),)
