"""Which weights stay on the device, and where the others pass through the ring: pure arithmetic, no tensors.

A model's weights are cut into pieces in the order the forward pass uses them. Some are resident; the others are copied
in that order, each pass, into a ring of device memory, and give their room back as soon as they were used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

RING_BYTES = 248 << 20
"""Under three of SDXL's largest blocks (98 MB); what matters is how far the copies can run ahead of dense compute."""

_SEARCH_STEPS = 48
_MINIMUM_SHARE = 1e-3
_CHOICE = 2
"""Large pieces to choose from, as a multiple of what has to stream."""


def ring_size(sizes: Sequence[int], available_bytes: float) -> int:
    """Bytes of the ring that suits leaves of these sizes on a device with so much to give.

    An eighth of the leaves at most, and half of what there is, so that a full device still keeps what is dear to
    stream; two of the largest leaves at least.
    """
    return max(2 * max(sizes, default=0), int(min(RING_BYTES, sum(sizes) // 8, available_bytes / 2)))


@dataclasses.dataclass(frozen=True)
class PieceCost:
    """What one piece costs a pass."""

    size_bytes: int
    seconds: float
    """Compute time from the first use of this piece to the first use of the next."""


@dataclasses.dataclass(frozen=True)
class RingPlan:
    """Fixed places in the ring for the streamed pieces, by position in the order of use."""

    offsets: tuple[int, ...]
    primed: int
    """How many of the first positions fit before any is used."""
    unlocks: tuple[tuple[int, ...], ...]
    """For each position, the positions whose room is free once it was used; the last ones unlock the next pass."""


def plan_ring(sizes_bytes: Sequence[int], ring_bytes: int) -> RingPlan:
    """Places pieces one behind the other in a ring, over and over, at the same offsets each pass.

    Raises:
        ValueError: a piece is larger than the ring.
    """
    offsets = _offsets(sizes_bytes, ring_bytes)
    count = len(offsets)
    blockers = [_blocker(position, offsets, sizes_bytes) for position in range(count)]
    # Copies are issued in order, so none may start before the one ahead of it. Twice: the order wraps around.
    for _ in range(2):
        latest = blockers[-1] - count if blockers else 0
        for position in range(count):
            latest = blockers[position] = max(blockers[position], latest)
    unlocks: list[list[int]] = [[] for _ in range(count)]
    for position, blocker in enumerate(blockers):
        unlocks[blocker % count].append(position)
    # One piece may unlock the end of this pass and the start of the next: the end comes first.
    ordered = (
        (
            *(position for position in unlocked if position > user),
            *(position for position in unlocked if position <= user),
        )
        for user, unlocked in enumerate(unlocks)
    )
    return RingPlan(tuple(offsets), sum(blocker < 0 for blocker in blockers), tuple(ordered))


def _offsets(sizes_bytes: Sequence[int], ring_bytes: int) -> list[int]:
    offsets, head = [], 0
    for size in sizes_bytes:
        if size > ring_bytes:
            raise ValueError(f"Ring: a piece of {size} bytes does not fit in {ring_bytes} bytes, use a larger ring.")
        if head + size > ring_bytes:
            head = 0
        offsets.append(head)
        head += size
    return offsets


def _blocker(position: int, offsets: Sequence[int], sizes_bytes: Sequence[int]) -> int:
    """The last position used before this one that lies where it will lie; negative for the pass before."""
    start, stop = offsets[position], offsets[position] + sizes_bytes[position]
    count = len(offsets)
    for earlier in range(position - 1, position - count - 1, -1):
        if offsets[earlier % count] < stop and start < offsets[earlier % count] + sizes_bytes[earlier % count]:
            return earlier
    return position - count


def choose_resident(
    costs: Sequence[PieceCost], *, resident_bytes: int, ring_bytes: int, always: Collection[int] = ()
) -> frozenset[int]:
    """The pieces to keep on the device, so that copying the others hides behind the compute.

    Models the ring as a bucket that fills at a steady rate while the model computes and that every streamed piece
    drains: the lowest rate at which enough is streamed spreads the copies over the time there is, whatever share of the
    weights each part of the model has. Pieces of `always`, and ones larger than the ring, are resident in any case.

    Args:
        costs: in order of use.
        resident_bytes: at most so much stays on the device, `always` included.
        ring_bytes: size of the ring that is not part of `resident_bytes`.
    """
    kept = frozenset(always) | {index for index, cost in enumerate(costs) if cost.size_bytes > ring_bytes}
    wanted_bytes = sum(cost.size_bytes for cost in costs) - resident_bytes
    if wanted_bytes <= 0:
        return frozenset(range(len(costs)))
    kept |= _small(costs, wanted_bytes, kept)
    low, high = 0.0, 1.0
    while high < 1e18 and _size(costs, _streamed(costs, high, ring_bytes, kept)) < wanted_bytes:
        high *= 4
    streamed = _streamed(costs, high, ring_bytes, kept)
    if _size(costs, streamed) < wanted_bytes:
        return kept
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        candidate = _streamed(costs, middle, ring_bytes, kept)
        if _size(costs, candidate) >= wanted_bytes:
            high, streamed = middle, candidate
        else:
            low = middle
    spare_bytes = _size(costs, streamed) - wanted_bytes
    for index in sorted(streamed, key=lambda index: -costs[index].size_bytes):
        if costs[index].size_bytes <= spare_bytes:
            streamed.remove(index)
            spare_bytes -= costs[index].size_bytes
    return frozenset(range(len(costs))) - frozenset(streamed)


def _small(costs: Sequence[PieceCost], wanted_bytes: int, kept: Collection[int]) -> frozenset[int]:
    """Pieces to leave alone where a few large ones are enough: each copy costs the host time."""
    large: list[int] = []
    large_bytes = 0
    for index in sorted(range(len(costs)), key=lambda index: -costs[index].size_bytes):
        if index not in kept and large_bytes < _CHOICE * wanted_bytes:
            large.append(index)
            large_bytes += costs[index].size_bytes
    return frozenset(range(len(costs))) - frozenset(large)


def _size(costs: Sequence[PieceCost], indices: Collection[int]) -> int:
    return sum(costs[index].size_bytes for index in indices)


def _streamed(costs: Sequence[PieceCost], rate: float, ring_bytes: int, kept: Collection[int]) -> list[int]:
    """What a bucket that fills at `rate` bytes a second lets through; the second of two passes, the steady one."""
    least_seconds = max(_MINIMUM_SHARE * sum(cost.seconds for cost in costs) / max(len(costs), 1), 1e-9)
    level = float(ring_bytes)
    streamed: list[int] = []
    for _ in range(2):
        streamed = []
        for index, cost in enumerate(costs):
            if index not in kept and cost.size_bytes <= level:
                streamed.append(index)
                level -= cost.size_bytes
            level = min(level + rate * max(cost.seconds, least_seconds), ring_bytes)
    return streamed
