"""The ladder: what is tried, in which order, after a failure, until the work ends or nothing is left."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import TypeVar

from .faults import FaultKind, classify

Answer = TypeVar("Answer")


class Rung(enum.Enum):
    """One way to carry on; the value says what was done."""

    FREE = "memory freed"
    ATTENTION = "a smaller attention budget"
    SPLIT = "one condition at a time"
    OFFLOAD = "part of the weights in host memory"
    FP32 = "fp32"
    ACCELERATOR = "another accelerator"
    CPU = "the CPU"


ORDER: Mapping[FaultKind, tuple[Rung, ...]] = {
    FaultKind.OUT_OF_MEMORY: (
        *(Rung.FREE, Rung.ATTENTION, Rung.SPLIT, Rung.OFFLOAD),
        *(Rung.ACCELERATOR, Rung.CPU),
    ),
    FaultKind.ALLOCATION_TOO_LARGE: (Rung.ATTENTION, Rung.SPLIT, Rung.ACCELERATOR, Rung.CPU),
    FaultKind.DEVICE_LOST: (Rung.ACCELERATOR, Rung.CPU),
    FaultKind.OPERATOR_MISSING: (Rung.FP32, Rung.ACCELERATOR, Rung.CPU),
    FaultKind.NOT_FINITE: (Rung.FP32, Rung.ACCELERATOR, Rung.CPU),
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
        return (str(self.error).splitlines() or [type(self.error).__name__])[0]


class LadderExhaustedError(RuntimeError):
    """Nothing was left to try; the message is one sentence."""


RungAction = Callable[[Failure], "str | None"]
"""Prepares the next attempt and says what it did in a few words, or answers None where it cannot help."""


def climb(
    attempt: Callable[[], Answer],
    actions: Mapping[Rung, RungAction],
    *,
    on_failure: Callable[[Failure], None],
    on_rung: Callable[[Failure, Rung, str], None],
    what: str,
) -> Answer:
    """Runs the attempt and, after each failure that is known, the next rung that applies and the attempt again.

    Each rung is tried at most once, so that at most one further attempt is made for each.

    Args:
        attempt: the work; it may be repeated.
        actions: what can be done here, by rung.
        on_failure: told of every known failure before a rung is chosen.
        on_rung: told of every rung that was taken, with the action's words.
        what: the work's name for the final sentence ("sampling step 3").

    Raises:
        LadderExhaustedError: every rung that applies was tried.
        BaseException: any failure of unknown kind, as it came.
    """
    tried: set[Rung] = set()
    while True:
        try:
            return attempt()
        except (RuntimeError, MemoryError) as error:
            failure = Failure.of(error)
        if failure.kind is FaultKind.UNKNOWN or isinstance(failure.error, LadderExhaustedError):
            raise failure.error
        on_failure(failure)
        if not _take_rung(failure, actions, tried, on_rung):
            done = ", ".join(rung.value for rung in Rung if rung in tried) or "nothing could be tried"
            raise LadderExhaustedError(
                f"{what} failed with {failure.kind.value} ({failure.message}) and was given up after {done}: "
                "make the picture or batch smaller, or free memory."
            ) from failure.error


def _take_rung(
    failure: Failure,
    actions: Mapping[Rung, RungAction],
    tried: set[Rung],
    on_rung: Callable[[Failure, Rung, str], None],
) -> bool:
    for rung in ORDER[failure.kind]:
        if rung in tried or rung not in actions:
            continue
        tried.add(rung)
        words = actions[rung](failure)
        if words is not None:
            on_rung(failure, rung, words)
            return True
    return False
