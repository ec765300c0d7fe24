"""Failures, classified in one table, and what may be tried after each."""

from __future__ import annotations

import dataclasses
import enum
import re

import torch


class FaultKind(enum.Enum):
    """What a failure was; the value is the name shown to users."""

    OUT_OF_MEMORY = "out of memory"
    ALLOCATION_TOO_LARGE = "allocation too large"
    DEVICE_LOST = "device lost"
    OPERATOR_MISSING = "operator missing"
    NOT_FINITE = "not finite"
    UNKNOWN = "unknown"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none, as a MemoryError mostly has."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class NotFiniteError(RuntimeError):
    """A model call answered NaN or infinity."""


@dataclasses.dataclass(frozen=True)
class _Rule:
    kind: FaultKind
    types: tuple[type[BaseException], ...]
    pattern: str


_RUNTIME = r"(level_zero|Native API|\bUR\b)[^\n]*\b(error|returns|code):? *"
"""Intel's runtimes before the number of an error; other libraries have other numbers."""

# First match wins. Messages: PyTorch's XPU allocator and SYCL runtime (pytorch #177714, #190972; torch-xpu-ops
# #3155; unified-runtime's ur_result_t: 20 device lost, 39 out of device memory, 40 out of resources). After CUDA's
# illegal access every later call of the process fails, as on a lost device.
_RULES: tuple[_Rule, ...] = (
    _Rule(FaultKind.NOT_FINITE, (NotFiniteError,), ""),
    _Rule(
        FaultKind.DEVICE_LOST,
        (RuntimeError,),
        r"DEVICE_LOST|device lost|PI_ERROR_DEVICE_NOT_AVAILABLE|CUDA error: an illegal memory access|"
        + _RUNTIME
        + r"20\b",
    ),
    _Rule(
        FaultKind.ALLOCATION_TOO_LARGE,
        (RuntimeError,),
        r"exceeds? .*(single|maximum|max).*alloc|UR_RESULT_ERROR_INVALID_BUFFER_SIZE"
        r"|larger than the device.*allocation",
    ),
    _Rule(FaultKind.OUT_OF_MEMORY, (torch.OutOfMemoryError,), ""),
    _Rule(
        FaultKind.OUT_OF_MEMORY,
        (RuntimeError,),
        r"OUT_OF_DEVICE_MEMORY|OUT_OF_HOST_MEMORY|OUT_OF_RESOURCES|out of memory|can't allocate memory"
        r"|not enough memory|" + _RUNTIME + r"(39|40)\b",
    ),
    _Rule(FaultKind.OUT_OF_MEMORY, (MemoryError,), ""),
    _Rule(
        FaultKind.OPERATOR_MISSING,
        (NotImplementedError, RuntimeError),
        r"UR_RESULT_ERROR_INVALID_ARGUMENT|UR_RESULT_ERROR_UNKNOWN|UNSUPPORTED_FEATURE|Required aspect fp64"
        r"|not supported on the device|could not create a primitive"
        r"|Could not run '.*' (with arguments )?from the|not (currently )?implemented for|no kernel",
    ),
)


def classify(error: BaseException) -> FaultKind:
    """The kind of a failure, looking through what caused it and what it was raised in the handling of."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        for rule in _RULES:
            if isinstance(current, rule.types) and re.search(rule.pattern, str(current), re.IGNORECASE):
                return rule.kind
        current = current.__cause__ or current.__context__
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


def lost_devices() -> dict[str, str]:
    """Devices that were lost in this process, with the error that told it."""
    return dict(_lost)
