"""Every touch on ComfyUI's internals: applied, stood down or unavailable, and why; or not met yet.

All that is written to its modules and classes, and to what they hold for the process, is written by the functions here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import enum
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..recovery.watch import undone

DISABLE_VARIABLE = "XPU_NODES_DISABLE"
"""Environment variable naming hooks to leave out, separated by commas."""


class State(enum.Enum):
    APPLIED = "applied"
    STOOD_DOWN = "stood down"
    UNAVAILABLE = "unavailable"
    NOT_MET = "not met yet"
    UNKNOWN = "unknown"


SHOWN = {
    State.APPLIED: "on",
    State.STOOD_DOWN: "off",
    State.UNAVAILABLE: "not possible",
    State.NOT_MET: "not needed yet",
    State.UNKNOWN: "unknown",
}
"""What users read; the values are for programs."""


@dataclasses.dataclass(frozen=True)
class Hook:
    """One touch and what became of it."""

    name: str
    state: State
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {SHOWN[self.state]}, {self.reason}"


_names: set[str] = set()
"""Of the hooks that can be left out."""
_hooks: dict[str, Hook] = {}
_liveness: dict[str, tuple[Callable[[], bool], str]] = {}
"""By the name of an applied hook: whether it still acts, and the reason while it does not."""


def named(name: str) -> str:
    """The name of a hook that can be left out; it is listed from now on."""
    _names.add(name)
    return name


def record(
    name: str,
    state: State,
    reason: str,
    *,
    in_force: Callable[[], bool] | None = None,
    otherwise: str = "another pack replaced it after it was applied",
) -> None:
    """Notes what became of a hook and logs it when that is news.

    Args:
        in_force: tells later whether an applied hook still acts, where another pack could replace or pass it.
        otherwise: the reason while it does not.
    """
    hook = Hook(name, state, reason)
    _liveness.pop(name, None)
    if in_force is not None:
        _liveness[name] = (in_force, otherwise)
    if _hooks.get(name) != hook:
        _hooks[name] = hook
        logging.info("XPU Nodes, change to ComfyUI, %s.", hook)


def hooks() -> tuple[Hook, ...]:
    """All hooks recorded so far, by name, as they are now."""
    return tuple(_as_it_is(_hooks[name]) for name in sorted(_hooks))


def listed() -> tuple[Hook, ...]:
    """All hooks by name, those too that nothing has called for yet."""
    waiting = (Hook(name, State.NOT_MET, "nothing has called for it yet") for name in _names - _hooks.keys())
    return tuple(sorted((*hooks(), *waiting), key=lambda hook: hook.name))


def reaches(function: Any, ours: Any) -> bool:
    """Whether calling a function of the host calls ours: it is ours, or wraps it and says so (`functools.wraps`)."""
    while function is not None and function is not ours:
        function = getattr(function, "__wrapped__", None)
    return function is not None


def put(owner: Any, name: str, value: Any) -> None:
    """Gives an attribute of a module or class of the host another value."""
    setattr(owner, name, value)


def put_for_good(hook: str, owner: Any, name: str, ours: Any, does: str) -> None:
    """Puts a function of ours, which calls the host's, in its place.

    Args:
        does: what the hook list says of it.
    """
    put(owner, name, ours)
    record(hook, State.APPLIED, does, in_force=lambda: reaches(getattr(owner, name), ours))


@contextlib.contextmanager
def put_meanwhile(hook: str, owner: Any, does: str, **values: Any) -> Iterator[None]:
    """Gives attributes other values for the block, unless that is switched off."""
    if switched_off(hook):
        yield
        return
    before = {name: getattr(owner, name) for name in values}
    record(hook, State.APPLIED, does)

    def give(those: Mapping[str, Any]) -> None:
        for name, value in those.items():
            put(owner, name, value)

    with undone(lambda: give(before)):
        give(values)
        yield


@contextlib.contextmanager
def listening(hook: str, listener: logging.Handler, does: str) -> Iterator[None]:
    """Has a listener hear all that is logged in the block, unless that is switched off."""
    if switched_off(hook):
        yield
        return
    record(hook, State.APPLIED, does)
    root = logging.getLogger()
    root.addHandler(listener)
    with undone(lambda: root.removeHandler(listener)):
        yield


def heed(signal: list[Any], handler: Callable[..., Any]) -> None:
    """Has a signal of the host's web application call a handler, too."""
    signal.append(handler)


def take_out(hook: str, entries: list[Any], entry: Any, does: str) -> None:
    """Takes an entry out of a list of the host."""
    entries[:] = [other for other in entries if other is not entry]
    record(hook, State.APPLIED, does)


def ask_queue(hook: str, queue: Any, flag: str, does: str) -> None:
    """Has the host's queue do something before the next prompt, unless that is switched off."""
    if not switched_off(hook):
        queue.set_flag(flag, True)
        record(hook, State.APPLIED, does)


def _as_it_is(hook: Hook) -> Hook:
    in_force, otherwise = _liveness.get(hook.name, (lambda: True, ""))
    if hook.state is State.APPLIED and not in_force():
        return Hook(hook.name, State.STOOD_DOWN, otherwise)
    return hook


def switched_off(name: str) -> bool:
    """Whether the user left this hook out; if so, that is recorded."""
    off = name in _left_out()
    if off:
        record(name, State.STOOD_DOWN, f"switched off by {DISABLE_VARIABLE}")
    return off


def check_left_out(where: str = DISABLE_VARIABLE, names: Iterable[str] | None = None) -> None:
    """Lists the names given there, the variable's unless others are, that no hook has, each with the nearest."""
    for stale in [name for name, hook in _hooks.items() if hook.reason.startswith(f"{where} names no change")]:
        del _hooks[stale]
    for name in _left_out() if names is None else names:
        if name not in _names:
            nearest = difflib.get_close_matches(name, sorted(_names), n=1, cutoff=0)
            record(name, State.UNKNOWN, f"{where} names no change of this pack, the nearest is {nearest[0]}")


def names_in(text: str) -> list[str]:
    """The names in a list that a user wrote, separated by commas."""
    return [name for entry in text.split(",") if (name := entry.strip())]


def _left_out() -> list[str]:
    return names_in(os.environ.get(DISABLE_VARIABLE, ""))
