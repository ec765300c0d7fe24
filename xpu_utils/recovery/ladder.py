"""The ladder: what is tried, in which order, after a failure, until the work ends or nothing is left."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from .faults import FaultKind, classify, first_line

Answer = TypeVar("Answer")


class Rung(enum.Enum):
    """One way to carry on; the value says what was done."""

    FREE = "memory freed"
    ATTENTION = "attention in smaller pieces"
    OFFLOAD = "part of the weights in main memory"
    SPLIT = "the prompts one after the other"
    FP32 = "fp32"
    ALONG = "data of other nodes moved along"
    WHOLE = "all weights on the device"
    TILES = "smaller tiles"
    HOST = "main memory"
    ACCELERATOR = "another device"
    CPU = "the CPU"


INEXACT = frozenset({Rung.SPLIT, Rung.TILES})
"""Rungs after which a result may differ although its format does not: a network may answer a batch otherwise, in the
last bits, than its parts, and tiles are blended. In fp32 all others give the same bits."""

# What changes nothing comes first. TILES and HOST are on no ladder: a VAE's tiles and the loaders choose them by
# themselves.
ORDER: Mapping[FaultKind, tuple[Rung, ...]] = {
    FaultKind.OUT_OF_MEMORY: (
        *(Rung.FREE, Rung.ATTENTION, Rung.OFFLOAD, Rung.SPLIT),
        *(Rung.ACCELERATOR, Rung.CPU),
    ),
    FaultKind.ALLOCATION_TOO_LARGE: (Rung.ATTENTION, Rung.SPLIT, Rung.ACCELERATOR, Rung.CPU),
    FaultKind.DEVICE_LOST: (Rung.ACCELERATOR, Rung.CPU),
    FaultKind.NO_ANSWER: (Rung.ACCELERATOR, Rung.CPU),
    FaultKind.OPERATOR_MISSING: (Rung.FP32, Rung.ACCELERATOR, Rung.CPU),
    FaultKind.NOT_FINITE: (Rung.FP32, Rung.ACCELERATOR, Rung.CPU),
    FaultKind.MISPLACED: (Rung.ALONG, Rung.WHOLE),
    FaultKind.DRIVER: (Rung.FREE, Rung.ATTENTION, Rung.FP32, Rung.ACCELERATOR, Rung.CPU),
}


@dataclasses.dataclass(frozen=True)
class Failure:
    """A failed attempt, without the frames that would keep its tensors alive."""

    kind: FaultKind
    error: BaseException

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        kind = classify(error)
        current: BaseException | None = error
        while current is not None and kind is not FaultKind.UNKNOWN:
            current.__traceback__ = None
            current = current.__cause__ or current.__context__
        return cls(kind, error)

    @property
    def message(self) -> str:
        """The first line of the error."""
        return first_line(self.error)

    def __str__(self) -> str:
        return f"{self.kind.value} ({self.message})"


ADVICE: Mapping[FaultKind, str] = {
    FaultKind.OUT_OF_MEMORY: "make the picture or batch smaller, or free memory",
    FaultKind.ALLOCATION_TOO_LARGE: "make the picture or batch smaller",
    FaultKind.DEVICE_LOST: "restart ComfyUI to get the device back",
    FaultKind.NO_ANSWER: "restart ComfyUI, or the computer, to get the device back",
    FaultKind.OPERATOR_MISSING: "update the driver and PyTorch, or choose another device",
    FaultKind.NOT_FINITE: "choose precision fp32, or leave out the LoRA, ControlNet or other patch that spoils it",
    FaultKind.MISPLACED: "leave that node out, or leave the model on the device that ComfyUI takes by itself",
    FaultKind.DRIVER: "update the driver and PyTorch, or choose another device or precision",
}
"""What the user can do when nothing was left to try."""


class LadderExhaustedError(RuntimeError):
    """Nothing was left to try; the message is one sentence."""

    @classmethod
    def after(
        cls, failure: Failure, what: str, tried: Collection[Rung] = (), first: Failure | None = None
    ) -> LadderExhaustedError:
        """The error of work that failed for good.

        Args:
            what: the work's name ("Sampling step 3").
            tried: the rungs that were taken.
            first: the failure that it began with; told where it was of another kind.
        """
        done = ", ".join(rung.value for rung in Rung if rung in tried) or "nothing could be tried"
        began = "" if first is None or first.kind is failure.kind else f" after {first}"
        return cls(f"{what} failed with {failure}{began} and was given up after {done}: {ADVICE[failure.kind]}.")


RungAction = Callable[[Failure], "str | None"]
"""Prepares the next attempt and says what it did in a few words, or answers None where it cannot help."""

REPEATED = frozenset({Rung.ACCELERATOR, Rung.ALONG})
"""Rungs that may be taken again, as on another device; their actions answer None when there is no more to do."""


def climb(
    attempt: Callable[[], Answer],
    actions: Mapping[Rung, RungAction],
    *,
    on_failure: Callable[[Failure], Failure],
    on_rung: Callable[[Failure, Rung, str], None],
    what: str,
    passing: tuple[type[BaseException], ...] = (),
) -> Answer:
    """Runs the attempt and, after each failure that is known, the next rung that applies and the attempt again.

    At most one further attempt is made for each rung. An action that fails itself is one more failure: the rungs go
    on after it.

    Args:
        attempt: the work; it may be repeated.
        actions: what can be done here, by rung.
        on_failure: told of every known failure before a rung is chosen; answers it, or what it really was, or raises to
            give up.
        on_rung: told of every rung that was taken, with the action's words.
        what: the work's name for the final sentence ("Sampling step 3").
        passing: errors that are passed on whatever they came from: the host's way to stop.

    Raises:
        LadderExhaustedError: every rung that applies was tried.
        BaseException: any failure of unknown kind, as it came.
    """
    steps = _Steps(actions, what)
    passed_on: tuple[type[BaseException], ...] = (LadderExhaustedError, *passing)
    failure: Failure | None = None
    while True:
        try:
            if failure is not None:
                on_rung(failure, *steps.after(failure))
            return attempt()
        except passed_on:
            raise
        except Exception as error:
            failure = Failure.of(error)
            if failure.kind is FaultKind.UNKNOWN:
                raise
        failure = on_failure(failure)


class _Steps:
    """Which rungs are left, and which were taken."""

    def __init__(self, actions: Mapping[Rung, RungAction], what: str) -> None:
        self._left = dict(actions)
        self._what = what
        self._taken: set[Rung] = set()
        self._first: Failure | None = None

    def after(self, failure: Failure) -> tuple[Rung, str]:
        """The next rung that applies, and what its action did."""
        self._first = self._first or failure
        for rung in ORDER[failure.kind]:
            action = self._left.pop(rung, None)  # for good where it does not apply, or fails itself
            words = action and action(failure)
            if action and words is not None:
                self._taken.add(rung)
                if rung in REPEATED:
                    self._left[rung] = action
                return rung, words
        raise LadderExhaustedError.after(failure, self._what, self._taken, self._first) from failure.error
