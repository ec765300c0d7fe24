"""A real out-of-memory: what the driver says, whether that is known here, and whether the device works after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from ..machine.devices import Device
from ..recovery.faults import FaultKind, classify, first_line
from ..selftest.operations import check

NOTHING = "no failure"
KNOWN = (FaultKind.OUT_OF_MEMORY.value, FaultKind.ALLOCATION_TOO_LARGE.value, NOTHING)
"""What getting too much may be taken for; some drivers give addresses for any request, as nothing is written there."""
TIMES_TOTAL = 4
"""The request is so many times the device's memory: none can give it, and nothing is filled."""
PIECE_BYTES = 256 << 20
"""What a device is filled with, piece by piece, where that was asked for."""


@dataclasses.dataclass(frozen=True)
class Exhaustion:
    """One attempt to get more than there is."""

    how: str
    granted_bytes: int
    """What was given before it failed."""
    kind: str
    """What it is taken for (`FaultKind`)."""
    message: str
    works_after: bool
    """Whether a product on the device is right afterwards."""

    def __str__(self) -> str:
        return f"{self.how}, {self.granted_bytes / (1 << 30):.1f} GiB given: {self.kind}"


def exhaust(device: Device) -> Iterator[Exhaustion]:
    """Asks for far too much in one request."""
    size_bytes = TIMES_TOTAL * device.total_bytes
    yield _attempt(device, "one request", [size_bytes], keep=False)


def fill(device: Device) -> Iterator[Exhaustion]:
    """Fills the device until it refuses; may stop the machine where its memory is the host's."""
    pieces = 2 * device.total_bytes // PIECE_BYTES
    yield _attempt(device, "filled", [PIECE_BYTES] * pieces, keep=True)


def _attempt(device: Device, how: str, sizes_bytes: list[int], *, keep: bool) -> Exhaustion:
    held: list[torch.Tensor] = []
    granted_bytes, kind, message = 0, NOTHING, ""
    try:
        for size_bytes in sizes_bytes:
            piece = torch.empty(size_bytes, dtype=torch.uint8, device=device.torch_device)
            granted_bytes += size_bytes
            if keep:
                held.append(piece.fill_(1))
    except (RuntimeError, MemoryError) as error:
        kind, message = classify(error).value, first_line(error)[:200]
    held.clear()
    return Exhaustion(how, granted_bytes, kind, message, check(device.id, "matrix product", "fp32").right)
