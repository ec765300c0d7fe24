"""Failures, classified in one table, and what may be tried after each."""

from __future__ import annotations

import dataclasses
import enum
import re

import torch

from . import texts


class FaultKind(enum.Enum):
    """What a failure was; the value is the name shown to users."""

    OUT_OF_MEMORY = "out of memory"
    ALLOCATION_TOO_LARGE = "allocation too large"
    DEVICE_LOST = "device lost"
    NO_ANSWER = "no answer from the device"
    OPERATOR_MISSING = "operation not supported"
    NOT_FINITE = "NaN in the result"
    MISPLACED = "data on two devices"
    """Somebody's tensors are not where the model computes."""
    DRIVER = "driver error"
    """Any other text of the runtimes below PyTorch."""
    UNKNOWN = "unknown"


LOSSES = frozenset({FaultKind.DEVICE_LOST, FaultKind.NO_ANSWER})
"""After these a device is left alone for the life of the process."""
NO_ROOM = frozenset({FaultKind.OUT_OF_MEMORY, FaultKind.ALLOCATION_TOO_LARGE})
"""After these it goes on with less."""

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none, as a MemoryError mostly has."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def requested_bytes(message: str) -> int:
    """What an allocation that failed had asked for, by PyTorch's message; 0 where that does not say."""
    found = re.search(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


class NotFiniteError(RuntimeError):
    """A model call answered NaN or infinity."""


class MisplacedError(RuntimeError):
    """Data of another device was met; the message says whose."""


class NoAnswerError(RuntimeError):
    """A device did not answer, and nothing more may be asked of it."""

    def __init__(self, device: torch.device, message: str) -> None:
        super().__init__(message)
        self.device = device


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Errors of these types, or such whose text has the pattern."""

    kind: FaultKind
    types: tuple[type[BaseException], ...] = ()
    pattern: str = ""


_RULES: tuple[_Rule, ...] = (
    _Rule(FaultKind.NOT_FINITE, (NotFiniteError,)),
    _Rule(FaultKind.MISPLACED, (MisplacedError,)),
    _Rule(FaultKind.NO_ANSWER, (NoAnswerError,)),
    _Rule(FaultKind.DEVICE_LOST, pattern=texts.DEVICE_LOST),
    _Rule(FaultKind.ALLOCATION_TOO_LARGE, pattern=texts.ALLOCATION_TOO_LARGE),
    _Rule(FaultKind.OUT_OF_MEMORY, (torch.OutOfMemoryError, MemoryError)),
    _Rule(FaultKind.OUT_OF_MEMORY, pattern=texts.OUT_OF_MEMORY),
    _Rule(FaultKind.OPERATOR_MISSING, pattern=texts.OPERATOR_MISSING),
    _Rule(FaultKind.MISPLACED, pattern=texts.MISPLACED),
    _Rule(FaultKind.DRIVER, pattern=texts.DRIVER),
)
"""The first match wins."""


def _tells(error: BaseException) -> bool:
    """Whether the text of an error may be a runtime's: a RuntimeError's, or one that has a runtime's own constants.

    What says that a file or a module is missing has paths.
    """
    if isinstance(error, RuntimeError):
        return True
    of_files = isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno is not None)
    return isinstance(error, Exception) and not of_files and bool(re.search(texts.CONSTANTS, str(error)))


def classify(error: BaseException) -> FaultKind:
    """The kind of a failure, looking through what caused it and what it was raised in the handling of."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        tells = _tells(current)
        for rule in _RULES:
            if isinstance(current, rule.types) if rule.types else tells and re.search(rule.pattern, str(current)):
                return rule.kind
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return FaultKind.UNKNOWN


_lost: dict[str, str] = {}


def is_dead(device: torch.device) -> bool:
    """Whether an accelerator answers the smallest work there is with the error of a lost device."""
    try:
        torch.ones(1, device=device).add_(1)
        torch.get_device_module(device.type).synchronize(device)
    except RuntimeError as error:
        return classify(error) is FaultKind.DEVICE_LOST
    return False


def mark_lost(device_id: str, message: str) -> None:
    """Notes that a device is gone for the life of this process: nothing on it can be read or freed any more."""
    _lost[device_id] = message


def is_lost(device: torch.device) -> bool:
    """Whether a device was lost in this process."""
    return str(device) in _lost


def lost_devices() -> dict[str, str]:
    """Devices that were lost in this process, with the error that told it."""
    return dict(_lost)
