"""Which of several ways to the same result is fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

GAIN_NEEDED = 1.1
"""How much faster than the plainer choice (fp32, contiguous, SDPA) another must be: noise is below that."""


def best_seconds(
    calls: Sequence[Callable[[], object]], *, repeats: int = 3, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The shortest time of each call, taken in turns so that a drift of the machine meets all of them.

    Args:
        clock: reads the seconds; on an accelerator, once everything queued is done.
    """
    for call in calls:
        call()
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for index, call in enumerate(calls):
            started = clock()
            call()
            best[index] = min(best[index], clock() - started)
    return best


def fastest(seconds: Sequence[float]) -> int:
    """Which way to take: the first, unless another is clearly faster."""
    best = min(range(len(seconds)), key=seconds.__getitem__)
    return best if seconds[best] * GAIN_NEEDED < seconds[0] else 0
