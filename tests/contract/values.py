"""What is known of an expression in our code."""

from __future__ import annotations

import ast
import dataclasses

from .pack import Function, OwnClass, OwnFunction
from .signatures import NOTHING_GIVEN, Call


@dataclasses.dataclass(frozen=True)
class Value:
    """What an expression is, as far as that can be read."""

    paths: tuple[str, ...] = ()
    """What of the host; where it is one of several, each of them."""
    own: OwnClass | None = None
    """The class of ours that it is, or is an instance of."""
    function: OwnFunction | None = None
    """What of ours is called by calling it."""
    given: Call = NOTHING_GIVEN
    """What `functools.partial` has given to the host's function."""
    text: str = ""
    settled: bool = False
    """Whether its name tells nothing, since an annotation said what it is."""
    names: str = ""
    """The variable whose place in a module it names: `name` in `for name, module in x.named_modules()`."""

    guard: str = ""
    """What was asked where it was taken from the host."""

    def then(self, step: str) -> Value:
        """What comes of the host's object by a step."""
        return Value(tuple(path + step for path in self.paths))


UNKNOWN = Value()


@dataclasses.dataclass
class Scope:
    """What the names in a function stand for, and what the function asks of the host."""

    names: dict[str, Value]
    function: str = ""
    """With its class, for a method."""
    own: OwnClass | None = None
    asked_for: frozenset[str] = frozenset()
    guard: str = ""

    def inner(self, **changes: object) -> Scope:
        """A scope within, whose names end with it."""
        return dataclasses.replace(self, names=dict(self.names), **changes)  # type: ignore[arg-type]

    def qualified(self, node: Function) -> str:
        """A function's name, a method's with its class; a lambda goes by what it is in."""
        if isinstance(node, ast.Lambda):
            return self.function
        return node.name if self.own is None or self.function else f"{self.own.node.name}.{node.name}"


def partial(value: Value, call: Call) -> Value:
    """What `functools.partial` gives; the first argument of the call is the function itself."""
    given = dataclasses.replace(call, positional=call.positional - 1)
    if value.function is None:
        return dataclasses.replace(value, given=given)
    return dataclasses.replace(value, function=value.function.bound(given))


def returned(function: OwnFunction) -> OwnFunction | None:
    """The function that a function of ours makes and returns."""
    if isinstance(function.node, ast.Lambda):
        return None
    made = {node.name: node for node in function.node.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    for node in function.node.body:
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Name) and node.value.id in made:
            return OwnFunction.of(function.file, made[node.value.id])
    return None
