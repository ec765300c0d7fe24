"""Checks touches against a host, or its record: what does not bind, and what is missing but asked for first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from .contract import Contract, MissingError, NotRecordedError
from .facts import Wrapped
from .signatures import Call, Signature
from .touches import OVERRIDDEN, Kind, Touch


@dataclasses.dataclass(frozen=True, order=True)
class Finding:
    """A touch that does not bind."""

    place: str
    text: str
    """What does not bind, and why."""
    host: str
    guard: str = ""
    """How the code asks before it: then it is feature-detected, and no failure."""

    def __str__(self) -> str:
        asked = f" (feature-detected: {self.guard})" if self.guard else ""
        return f"{self.place}: {self.text} on ComfyUI {self.host}{asked}"


def check(touches: Iterable[Touch], contract: Contract, wrapped: Mapping[str, Wrapped], host: str) -> list[Finding]:
    """Every touch that does not bind on a host."""
    found = set()
    for touch in touches:
        problem = _problem(touch, contract, wrapped)
        if problem is not None:
            asked = next((f"asks for {name}" for name in problem.names if name in touch.asked_for), touch.guard)
            if asked == OVERRIDDEN and not problem.missing:
                asked = ""
            found.add(Finding(touch.place, f"{touch.kind.value} {problem.text}", host, asked))
    return sorted(found)


@dataclasses.dataclass(frozen=True)
class _Problem:
    text: str
    names: tuple[str, ...] = ()
    """What could have been asked for."""
    missing: bool = False


def _problem(touch: Touch, contract: Contract, wrapped: Mapping[str, Wrapped]) -> _Problem | None:
    """What is wrong with a touch; None where it binds."""
    if touch.kind is Kind.WRAPPER:
        return _wrapper_problem(touch, wrapped)
    try:
        found = contract.find(touch.path)
    except MissingError as missing:
        if touch.kind is Kind.OVERRIDE:
            return None
        return _Problem(f"{touch.path}: {missing}", (missing.name.strip("[]"),), missing=True)
    except NotRecordedError as module:
        return _Problem(f"{touch.path}: no record of {module}, run `make contract` with each host")
    last = touch.path.rpartition(".")[2]
    if touch.kind is Kind.CALL:
        refusals = [signature.refusal(touch.call) for signature in contract.call(found)]
        if refusals and all(refusals):
            return _Problem(f"{touch.path}, which {refusals[0]}", (last, *touch.call.keywords))
    if touch.kind in (Kind.STAND_IN, Kind.OVERRIDE) and not found.abstract:
        refused = [(theirs, reason) for theirs in found.signatures if (reason := touch.signature.refuses(theirs))]
        if refused:
            return _Problem(f"{touch.path}{refused[0][0]}, but ours {refused[0][1]}", (last,))
    return None


def _wrapper_problem(touch: Touch, wrapped: Mapping[str, Wrapped]) -> _Problem | None:
    """A kind that the host does not know is missing as a name of its class already."""
    known = wrapped.get(touch.path, Wrapped())
    inner = Signature.parse(known.function or "()")
    calls = [*known.calls, *([Call(len(inner.positional))] if known.function else [])]
    refusals = [refusal for call in calls if (refusal := touch.signature.refusal(call))]
    refusals += filter(None, [touch.signature.misreads(inner)])
    return _Problem(f"{touch.path}: ours {refusals[0]}", (touch.path,)) if refusals else None
