"""Which pieces lie in the ring when: pure arithmetic, no tensors.

A piece keeps its room until another needs it, so that a layer that a pass uses again soon is still there. One whose
room is taken by then is copied again, ahead of that use as of any.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

_WINDOWS = 8
"""Rings to compare: each costs the planning of a pass, and more of them hardly find a better one."""


@dataclasses.dataclass(frozen=True)
class Stay:
    """A piece's time in the ring: copied once, used once or more."""

    piece: int
    offset: int
    first: int
    """Its first use, counted in the uses of a pass; and its last."""
    last: int


@dataclasses.dataclass(frozen=True)
class RingPlan:
    """The stays of a pass in the order in which they are copied, at the same places each pass."""

    stays: tuple[Stay, ...]
    stay_of: tuple[int, ...]
    """For each use."""
    primed: int
    """How many of the first stays fit before any is used."""
    unlocks: tuple[tuple[int, ...], ...]
    """For each use, the stays whose room is free once it is over; the last ones unlock the next pass."""

    def copied_bytes(self, sizes_bytes: Sequence[int]) -> int:
        """What a pass copies, of pieces of these sizes."""
        return sum(sizes_bytes[stay.piece] for stay in self.stays)


def plan_ring(order: Sequence[int], sizes_bytes: Sequence[int], ring_bytes: int) -> RingPlan:
    """Places pieces one behind the other in a ring, over and over.

    Args:
        order: the pieces as a pass uses them, some perhaps more than once.
        sizes_bytes: by piece.
        ring_bytes: of the ring.

    Raises:
        ValueError: a piece is larger than the ring.
    """
    starts, lasts, stay_of, held = _laid_out(order, sizes_bytes, ring_bytes)
    stays = [Stay(*start, last) for start, last in zip(starts, lasts, strict=True)]
    uses = len(order)
    blockers = _blockers(stays, sizes_bytes, uses, held)
    unlocks: list[list[int]] = [[] for _ in order]
    for index, blocker in enumerate(blockers):
        unlocks[blocker % uses].append(index)
    # One use may unlock the end of this pass and the start of the next: the end comes first.
    ordered = (
        (
            *(index for index in unlocked if stays[index].first > use),
            *(index for index in unlocked if stays[index].first <= use),
        )
        for use, unlocked in enumerate(unlocks)
    )
    return RingPlan(tuple(stays), tuple(stay_of), sum(blocker < 0 for blocker in blockers), tuple(ordered))


def copies_of(order: Sequence[int], sizes_bytes: Sequence[int], ring_bytes: int) -> collections.Counter[int]:
    """How often such a ring's pass copies each piece; see `plan_ring`, which takes longer."""
    return collections.Counter(piece for piece, _, _ in _laid_out(order, sizes_bytes, ring_bytes)[0])


def useful_windows(
    order: Sequence[int], sizes_bytes: Sequence[int], *, least_bytes: int, most_bytes: int, step_bytes: int
) -> list[int]:
    """Sizes of a ring in which pieces are surely still there when they are used again.

    Where there are more than a few, those that save another equal part of the bytes each.

    Args:
        order, sizes_bytes: see `plan_ring`.
        least_bytes, most_bytes: between these.
        step_bytes: they are rounded up to a multiple of it.
    """
    largest = max((sizes_bytes[piece] for piece in order), default=0)
    saved: collections.Counter[int] = collections.Counter()
    for piece, distance in _distances(order, sizes_bytes):
        window_bytes = -(-(distance + largest) // step_bytes) * step_bytes
        if least_bytes <= window_bytes <= most_bytes:
            saved[window_bytes] += sizes_bytes[piece]
    windows = sorted(saved)
    if len(windows) <= _WINDOWS:
        return windows
    total = saved.total()
    parts = [running * _WINDOWS // total for running in itertools.accumulate(saved[window] for window in windows)]
    return [window for window, before, part in zip(windows, [0, *parts], parts, strict=False) if part > before]


def _distances(order: Sequence[int], sizes_bytes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """For each use of a piece again, the bytes of all that is used from its last use on."""
    width = math.isqrt(len(order)) + 1
    live, rows = [0] * len(order), [0] * width
    """By use, the size of a piece that was last used then; and the sums of so many in a row."""
    last: dict[int, int] = {}
    for use, piece in enumerate(order):
        if piece in last:
            since = last[piece]
            row = since // width
            yield piece, sum(live[since : (row + 1) * width]) + sum(rows[row + 1 :])
            live[since] = 0
            rows[row] -= sizes_bytes[piece]
        last[piece] = use
        live[use] = sizes_bytes[piece]
        rows[use // width] += sizes_bytes[piece]


class _Held:
    """The stays whose room nobody has taken, by where they lie."""

    def __init__(self) -> None:
        self.head = 0
        """Where the last one ends."""
        self._ahead: collections.deque[tuple[int, int]] = collections.deque()
        """Offset and name of those of the lap before, from the head on."""
        self._behind: list[tuple[int, int]] = []

    def take(self, name: int, offset: int, size_bytes: int) -> list[int]:
        """Room for another, at the head or at the start; answers whose room that was."""
        if offset < self.head:
            self._ahead.extendleft(reversed(self._behind))
            self._behind = []
        self.head = offset + size_bytes
        taken = []
        while self._ahead and self._ahead[0][0] < self.head:
            taken.append(self._ahead.popleft()[1])
        self._behind.append((offset, name))
        return taken


def _laid_out(
    order: Sequence[int], sizes_bytes: Sequence[int], ring_bytes: int
) -> tuple[list[tuple[int, int, int]], list[int], list[int], _Held]:
    """Piece, offset and first use of each stay, the last ones, the stay of each use, and what is held at the end."""
    starts: list[tuple[int, int, int]] = []
    lasts: list[int] = []
    stay_of: list[int] = []
    there: dict[int, int] = {}
    """By piece, the stay whose room nobody has taken."""
    held = _Held()
    for use, piece in enumerate(order):
        if piece in there:
            lasts[there[piece]] = use
        else:
            size = sizes_bytes[piece]
            if size > ring_bytes:
                raise ValueError(
                    f"Ring: a piece of {size} bytes does not fit in {ring_bytes} bytes, use a larger ring."
                )
            offset = 0 if held.head + size > ring_bytes else held.head
            for index in held.take(len(starts), offset, size):
                del there[starts[index][0]]
            there[piece] = len(starts)
            starts.append((piece, offset, use))
            lasts.append(use)
        stay_of.append(there[piece])
    return starts, lasts, stay_of, held


def _blockers(stays: Sequence[Stay], sizes_bytes: Sequence[int], uses: int, held: _Held) -> list[int]:
    """For each stay the use after which its copy may start; negative for one of the pass before.

    Args:
        held: what the pass before has left in the ring.
    """
    blockers = []
    for index, stay in enumerate(stays):
        taken = held.take(index + len(stays), stay.offset, sizes_bytes[stay.piece])
        ends = (stays[other % len(stays)].last - (uses if other < len(stays) else 0) for other in taken)
        blockers.append(max(ends, default=-uses))
    # Copies are issued in order, so none may start before the one ahead of it. Twice: the order wraps around.
    for _ in range(2):
        latest = blockers[-1] - uses if blockers else 0
        for index, blocker in enumerate(blockers):
            latest = blockers[index] = max(blocker, latest)
    return blockers
