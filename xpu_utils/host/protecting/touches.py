"""Puts our functions in front of ComfyUI's while the switch is on, each with ComfyUI's own behind it."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...recovery.faults import FaultKind, classify, first_line
from ...recovery.ladder import LadderExhaustedError
from ...weights.header import LoadError
from .. import hooks
from ..recovery.rungs import STOPS
from .exempt import is_exempt

Work = Callable[[], Any]
Offer = Callable[..., "Work | None"]
"""Given the stock function and its arguments: the work that serves the call, or None where it goes its own way."""


class Touch:
    """Functions of the host that one hook stands in for."""

    def __init__(self, name: str, does: str, functions: Sequence[tuple[Any, str, Offer]]) -> None:
        """
        Args:
            name: the hook's.
            does: what the hook list says of it.
            functions: modules or classes, the names of their functions, and the offer for each. What an offer raises
                never reaches a user whom ComfyUI's own way serves.
        """
        self.name = hooks.named(name)
        self._does = does
        self._functions = functions
        self._stock: dict[tuple[Any, str], tuple[Any, Any]] = {}
        """By owner and name: what was there, and what we put in its place."""
        self._active = False

    def apply(self) -> None:
        """Puts ours in place where it is not, or where another pack has put the stock function back.

        What another pack has put something in front of stays behind that.
        """
        if hooks.switched_off(self.name):
            self._active = False
            return
        self._active = True
        for owner, name, offer in self._functions:
            there = vars(owner).get(name)
            if there is not None and self._stock.get((owner, name), (there,))[0] is there:
                ours = self._standing_in(there, offer)
                self._stock[owner, name] = (there, ours)
                hooks.put(owner, name, ours)
        self._report()

    def take_back(self, reason: str) -> None:
        """Puts back what was there; where another pack has put something in front of ours, it passes calls on."""
        if self._active:
            hooks.record(self.name, hooks.State.STOOD_DOWN, reason)
        self._active = False
        for (owner, name), (there, ours) in list(self._stock.items()):
            if vars(owner).get(name) is ours:
                hooks.put(owner, name, there)
                del self._stock[owner, name]

    def _report(self) -> None:
        if not self._stock:
            hooks.record(self.name, hooks.State.UNAVAILABLE, "this ComfyUI has no function of that name")
            return
        reasons = [self._does]
        for (owner, name), (there, ours) in self._stock.items():
            now = vars(owner).get(name)
            if now is not ours:
                reasons.append(f"{written_in(now)} was put in front of our {name}")
            elif written_in(there) != (owner.__module__ if isinstance(owner, type) else owner.__name__):
                reasons.append(f"in front of {written_in(there)}'s {name}")
        hooks.record(self.name, hooks.State.APPLIED, "; ".join(dict.fromkeys(reasons)))

    def _standing_in(self, there: Any, offer: Offer) -> Any:
        if isinstance(there, classmethod):
            return classmethod(self._in_front_of(there.__func__, offer))
        return self._in_front_of(there, offer)

    def _in_front_of(self, stock: Callable[..., Any], offer: Offer) -> Callable[..., Any]:
        @functools.wraps(stock)
        def call(*arguments: Any, **keywords: Any) -> Any:
            if not self._active or is_exempt():
                return stock(*arguments, **keywords)
            random = torch.get_rng_state()
            try:
                work = offer(stock, *arguments, **keywords)
                if work is not None:
                    return work()
            except STOPS:
                raise
            except Exception as error:
                if not _stock_may_finish(error):
                    raise
                failed, details = error, traceback.format_exc()
            else:
                return stock(*arguments, **keywords)
            failed.__traceback__ = None  # its frames would keep tensors alive
            torch.set_rng_state(random)
            try:
                answer = stock(*arguments, **keywords)
            except STOPS:
                raise
            except Exception as second:
                logging.error("XPU Nodes, %s: failed, and so did ComfyUI's own way:\n%s", self.name, details)
                raise failed from second  # what came first is what to look at
            _say_once(self.name, first_line(failed), details)
            return answer

        return call


def written_in(function: Any) -> str:
    """The module that a function, or a class method, is written in, whatever it says (`functools.wraps`)."""
    function = getattr(function, "__func__", function)
    module = getattr(function, "__globals__", {}).get("__name__", "another pack")
    if module.startswith("torch.") and hasattr(function, "__wrapped__"):  # a decorator of PyTorch's
        return written_in(function.__wrapped__)
    return str(module)


def _stock_may_finish(error: Exception) -> bool:
    """Whether stock nodes could end in a picture all the same: a black one, where nothing finite was to be had."""
    if isinstance(error, LoadError):  # reading past the end of a mapped file ends the process
        return False
    if not isinstance(error, LadderExhaustedError):
        return True
    return error.__cause__ is not None and classify(error.__cause__) is FaultKind.NOT_FINITE


_said: set[tuple[str, str]] = set()


def _say_once(name: str, message: str, details: str) -> None:
    if (name, message) in _said:
        return
    _said.add((name, message))
    logging.warning("XPU Nodes, %s: %s; ComfyUI's own way was taken instead.", name, message)
    logging.info("%s", details)
