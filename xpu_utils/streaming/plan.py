"""Which weights stay on the device, and where the others pass through the ring: pure arithmetic, no tensors.

A model's weights are cut into pieces in the order the forward pass uses them. Some are resident; the others are copied
in that order, each pass, into a ring of device memory, and give their room back as soon as they were used.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Collection, Iterable, Sequence

from .window import copies_of, useful_windows

RING_BYTES = 248 << 20
"""Under three of SDXL's largest blocks (98 MB); what matters is how far the copies can run ahead of dense compute."""

_SEARCH_STEPS = 20
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
class Choice:
    """How a stream shares out the memory that it may take."""

    resident: frozenset[int]
    """The pieces that stay on the device."""
    ring_bytes: int
    """Of the ring that all others pass through."""


@functools.lru_cache(8)  # a model that is loaded again, or that memory ran out for, asks the same again
def choose(costs: tuple[PieceCost, ...], order: tuple[int, ...], *, budget_bytes: int, ring_bytes: int) -> Choice:
    """What to keep on the device and how large a ring to have, so that little is copied, and hides behind the compute.

    Where a pass uses pieces again, a ring in which they are still there then may be worth more than the pieces that
    could stay in its place: of all that is worth trying, that by which a pass copies the least is chosen. Nothing is
    larger than it needs to be where no piece is used again.

    Args:
        costs: in order of first use.
        order: the pieces as a pass uses them, some perhaps more than once.
        budget_bytes: at most so much is taken beside the smallest ring.
        ring_bytes: of the smallest ring.
    """
    sizes = [cost.size_bytes for cost in costs]

    def chosen(window_bytes: int, wanted: Iterable[int]) -> Choice:
        resident_bytes = budget_bytes - (window_bytes - ring_bytes)
        always = _fitting(wanted, sizes, resident_bytes)
        kept = choose_resident(costs, resident_bytes=resident_bytes, ring_bytes=ring_bytes, always=always)
        return Choice(kept, window_bytes)

    uses = collections.Counter(order)
    plain = chosen(ring_bytes, (piece for piece in range(len(costs)) if uses[piece] > 1))
    if len(order) == len(costs):
        return plain
    choices = [plain]
    fewest_bytes = float("inf")
    most_bytes = ring_bytes + budget_bytes
    step_bytes = max(1, ring_bytes // 8)
    windows = useful_windows(order, sizes, least_bytes=ring_bytes, most_bytes=most_bytes, step_bytes=step_bytes)
    for window_bytes in (ring_bytes, *windows):
        copies = copies_of(order, sizes, window_bytes)
        copied_bytes = sum(sizes[piece] * count for piece, count in copies.items())
        if copied_bytes < fewest_bytes:
            fewest_bytes = copied_bytes
            dearest = sorted(copies, key=lambda piece: -copies[piece])
            choices.append(chosen(window_bytes, (piece for piece in dearest if copies[piece] > 1)))

    def copied(choice: Choice) -> int:
        streamed = [piece for piece in order if piece not in choice.resident]
        return sum(sizes[piece] * count for piece, count in copies_of(streamed, sizes, choice.ring_bytes).items())

    return min(choices, key=copied)


def _fitting(indices: Iterable[int], sizes_bytes: Sequence[int], room_bytes: int) -> set[int]:
    """As many of them as there is room for."""
    fitting = set()
    for index in indices:
        if sizes_bytes[index] <= room_bytes:
            fitting.add(index)
            room_bytes -= sizes_bytes[index]
    return fitting


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
    least_seconds = max(_MINIMUM_SHARE * sum(cost.seconds for cost in costs) / len(costs), 1e-9)
    seconds = [max(cost.seconds, least_seconds) for cost in costs]
    sizes = [float("inf") if index in kept else cost.size_bytes for index, cost in enumerate(costs)]
    low, high = 0.0, wanted_bytes / sum(seconds)
    streamed = _streamed(sizes, seconds, high, ring_bytes)
    while high < 1e18 and _size(costs, streamed) < wanted_bytes:
        low, high = high, high * 4
        streamed = _streamed(sizes, seconds, high, ring_bytes)
    if _size(costs, streamed) < wanted_bytes:
        return kept
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        candidate = _streamed(sizes, seconds, middle, ring_bytes)
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


def _streamed(sizes: Sequence[float], seconds: Sequence[float], rate: float, ring_bytes: int) -> list[int]:
    """What a bucket that fills at `rate` bytes a second lets through; the second of two passes, the steady one.

    Args:
        sizes: of the pieces, in bytes; infinite where one is not to be streamed.
        seconds: their compute time.
    """
    level = float(ring_bytes)
    streamed: list[int] = []
    for _ in range(2):
        streamed = []
        for index, size in enumerate(sizes):
            if size <= level:
                streamed.append(index)
                level -= size
            level += rate * seconds[index]
            if level > ring_bytes:  # `min` would take longer than all the rest
                level = ring_bytes
    return streamed
