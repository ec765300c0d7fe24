"""What stands in for a function of the host takes whatever it is given and hands it on, the way it was given.

A host may ask more of its functions tomorrow than today, and other packs stand between it and us. So what we need of a
call is looked at by name, and whatever else is in it travels on untouched.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments of a call of a host's function: seen and changed by name, handed on where they were."""

    names: Sequence[str]
    """Of the function's first parameters, in its order."""
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]

    def given(self) -> dict[str, Any]:
        """What was given, by name; without what stands at positions that have none here."""
        return {**dict(zip(self.names, self.arguments, strict=False)), **self.keywords}

    def get(self, name: str, default: Any = None) -> Any:
        """What was given under a name."""
        return self.given().get(name, default)

    def changed(self, **values: Any) -> Call:
        """The same call with other values: where they were given, and by keyword what was not given."""
        arguments, keywords = list(self.arguments), {**self.keywords, **values}
        for place, name in enumerate(self.names[: len(arguments)]):
            if name in values:
                arguments[place] = keywords.pop(name)
        return dataclasses.replace(self, arguments=arguments, keywords=keywords)

    def on(self, function: Function) -> Any:
        """Calls a function so."""
        return function(*self.arguments, **self.keywords)


class StandIn:
    """Called in a function's place: does it a cheaper way where that knows all that is asked, else calls the function.

    None is how the host leaves out what it does not ask for.
    """

    def __init__(
        self,
        stock: Function,
        cheaper: Function,
        *own: Any,
        hints: Collection[str] = (),
        before: Callable[[], None] | None = None,
    ) -> None:
        """
        Args:
            stock: the function; it gets every call that the cheaper way does not take, as it came.
            cheaper: called with `own` and what was given; answers None where it cannot do that.
            hints: names of what may be given and is nothing to the cheaper way.
            before: what the function does first by itself.
        """
        self.stock = stock
        self._cheaper, self._own = cheaper, own
        self._hints, self._before = hints, before
        self._positions, self._names, self._needed = _parameters(cheaper, len(own))

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self._before is not None:
            self._before()
        count = len(self._positions)
        known = {name: value for name, value in keywords.items() if name in self._names}
        others = [keywords[name] for name in keywords if name not in known and name not in self._hints]
        complete = self._needed <= {*self._positions[: len(arguments)], *known}
        if complete and all(value is None for value in (*arguments[count:], *others)):
            answer = self._cheaper(*self._own, *arguments[:count], **known)
            if answer is not None:
                return answer
        return self.stock(*arguments, **keywords)


@functools.lru_cache(maxsize=64)
def _parameters(cheaper: Function, own: int) -> tuple[tuple[str, ...], frozenset[str], frozenset[str]]:
    """Of what a cheaper way takes beside its own: names of the positions, all names, and names without a default."""
    parameters = list(inspect.signature(cheaper).parameters.values())[own:]
    positions = tuple(entry.name for entry in parameters if entry.kind is not inspect.Parameter.KEYWORD_ONLY)
    needed = frozenset(entry.name for entry in parameters if entry.default is inspect.Parameter.empty)
    return positions, frozenset(entry.name for entry in parameters), needed
