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


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none, as a MemoryError mostly has."""
    return (str(error).splitlines() or [type(error).__name__])[0]


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
    kind: FaultKind
    types: tuple[type[BaseException], ...]
    pattern: str


_RUNTIME = r"(level_zero|Native API|\bUR\b)[^\n]*\b(error|returns|code):? *"
"""Intel's runtimes before the number of an error; other libraries have other numbers."""

_MARKERS = (
    r"(?-i:\bUR\b|\bPI\b|\bIGC\b|\bNEO\b|\b(ur|pi|zes?|cl)[A-Z][A-Za-z]|\[ZE\])"
    r"|\bUR_|\bPI_|\bZES?_|\bCL_|\bL0\b|Native API|level[_ ]?zero|unified[_ ]runtime|sycl|dpc\+\+|dpcpp"
    r"|onednn|dnnl|mkldnn|onemkl|oneapi|(\b|_)mkl(\b|_)|torch[-_]xpu[-_]ops|\bxpu::|xpu error|initialize xpu"
    r"|\bbuild (program|module)|program was built|module (build|creation)|backend compiler failed|spir-?v|ocloc"
    r"|could not (create|execute|initialize|get|set|reorder)\b[^\n]*(primitive|memory (object|descriptor)|engine)"
    r"|work-(group|item)s?\b|no device of requested type|enqueue process failed|compute runtime|gpu hang|wedged"
)
"""What tells a text of UR, PI, Level Zero, SYCL, oneDNN or MKL, or of the compiler or driver under them."""

# First match wins. Messages: PyTorch's XPU allocator and SYCL runtime (pytorch #177714, #190972; torch-xpu-ops
# #3155; unified-runtime's ur_result_t: 20 device lost, 39 out of device memory, 40 out of resources; PI's, which are
# OpenCL's: -4 no memory for an object, -5 out of resources, -6 out of host memory). After CUDA's illegal access every
# later call of the process fails, as on a lost device.
_RULES: tuple[_Rule, ...] = (
    _Rule(FaultKind.NOT_FINITE, (NotFiniteError,), ""),
    _Rule(FaultKind.MISPLACED, (MisplacedError,), ""),
    _Rule(FaultKind.NO_ANSWER, (NoAnswerError,), ""),
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
        r"exceeds? .*(single|maximum|max).*alloc|INVALID_BUFFER_SIZE|can ?not allocate memory block with size larger"
        r"|larger than the device.*allocation",
    ),
    _Rule(FaultKind.OUT_OF_MEMORY, (torch.OutOfMemoryError,), ""),
    _Rule(
        FaultKind.OUT_OF_MEMORY,
        (RuntimeError,),
        r"OUT_OF_DEVICE_MEMORY|OUT_OF_HOST_MEMORY|OUT_OF_RESOURCES|out of memory|can't allocate memory"
        r"|not enough memory|" + _RUNTIME + r"(39|40|-[456])\b",
    ),
    _Rule(FaultKind.OUT_OF_MEMORY, (MemoryError,), ""),
    _Rule(
        FaultKind.OPERATOR_MISSING,
        (NotImplementedError, RuntimeError),
        r"UR_RESULT_ERROR_INVALID_ARGUMENT|UNSUPPORTED_FEATURE|Required aspect fp64|doesn't support tensor of type"
        r"|not supported (on the device|in oneDNN)|Could not run '.*' (with arguments )?from the"
        r"|not (currently )?implemented for|no kernel|missing kernel",
    ),
    _Rule(
        FaultKind.MISPLACED,
        (RuntimeError,),
        r"expected all tensors to be on the same device|found at least two devices|either on cpu or on the same device"
        r"|but expected (it|them) to be on (cpu|gpu|the same)|weight type \([\w.]+\) should be the same",
    ),
    _Rule(FaultKind.DRIVER, (RuntimeError,), _MARKERS),
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


def is_lost(device: torch.device) -> bool:
    """Whether a device was lost in this process."""
    return str(device) in _lost


def lost_devices() -> dict[str, str]:
    """Devices that were lost in this process, with the error that told it."""
    return dict(_lost)
