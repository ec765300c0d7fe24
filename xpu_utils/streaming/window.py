"""Which pieces lie in the ring when: pure arithmetic, no tensors.

A piece keeps its room until another needs it, so that a layer that a pass uses again soon is still there. One whose
room is taken by then is copied again, ahead of that use as of any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence


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
    stays, stay_of = _laid_out(order, sizes_bytes, ring_bytes)
    uses = len(order)
    blockers = _blockers(stays, sizes_bytes, uses)
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


def useful_windows(order: Sequence[int], sizes_bytes: Sequence[int], step_bytes: int) -> list[int]:
    """The sizes of a ring in which a piece is surely still there when it is used again, for each distance in a pass.

    Args:
        order, sizes_bytes: see `plan_ring`.
        step_bytes: they are rounded up to a multiple of it, so that there are few.
    """
    largest = max((sizes_bytes[piece] for piece in order), default=0)
    return sorted(
        {-(-(distance + largest) // step_bytes) * step_bytes for distance in set(_distances(order, sizes_bytes))}
    )


def _distances(order: Sequence[int], sizes_bytes: Sequence[int]) -> Iterator[int]:
    """For each use of a piece again, the bytes of all that is used from its last use on."""
    last: dict[int, int] = {}  # by last use
    for use, piece in enumerate(order):
        if piece in last:
            yield sum(sizes_bytes[other] for other, used in last.items() if used >= last[piece])
        last[piece] = use


def _laid_out(order: Sequence[int], sizes_bytes: Sequence[int], ring_bytes: int) -> tuple[list[Stay], list[int]]:
    """The stays, and which one each use is in."""
    stays: list[Stay] = []
    stay_of: list[int] = []
    there: dict[int, int] = {}
    """By piece, the stay whose room nobody has taken."""
    head = 0
    for use, piece in enumerate(order):
        if piece in there:
            stays[there[piece]] = dataclasses.replace(stays[there[piece]], last=use)
        else:
            size = sizes_bytes[piece]
            if size > ring_bytes:
                raise ValueError(
                    f"Ring: a piece of {size} bytes does not fit in {ring_bytes} bytes, use a larger ring."
                )
            head = 0 if head + size > ring_bytes else head
            stay = Stay(piece, head, use, use)
            there = {other: index for other, index in there.items() if not _meet(stay, stays[index], sizes_bytes)}
            there[piece] = len(stays)
            stays.append(stay)
            head += size
        stay_of.append(there[piece])
    return stays, stay_of


def _meet(stay: Stay, other: Stay, sizes_bytes: Sequence[int]) -> bool:
    """Whether their rooms overlap."""
    return (
        other.offset < stay.offset + sizes_bytes[stay.piece] and stay.offset < other.offset + sizes_bytes[other.piece]
    )


def _blockers(stays: Sequence[Stay], sizes_bytes: Sequence[int], uses: int) -> list[int]:
    """For each stay the use after which its copy may start; negative for one of the pass before."""
    there = {index: stay.last - uses for index, stay in enumerate(stays)}
    """The stays whose room nobody has taken since, and their last use: those of the pass before, to begin with."""
    blockers = []
    for index, stay in enumerate(stays):
        met = [other for other in there if _meet(stay, stays[other], sizes_bytes)]
        blockers.append(max((there.pop(other) for other in met), default=-uses))
        there[index] = stay.last
    # Copies are issued in order, so none may start before the one ahead of it. Twice: the order wraps around.
    for _ in range(2):
        latest = blockers[-1] - uses if blockers else 0
        for index, blocker in enumerate(blockers):
            latest = blockers[index] = max(blocker, latest)
    return blockers
