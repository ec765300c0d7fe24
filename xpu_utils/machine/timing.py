"""How long calls on a device take, one by itself or several against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from .devices import Device

SHORTEST_SECONDS = 0.3
"""An operation is repeated for at least this long ..."""
FEWEST_REPEATS = 3
"""... and at least this often."""
MOST_REPEATS = 200
SLOW_SECONDS = 2.0
"""A first call this slow is the measurement: warming up matters little, and half a minute of repeats too much."""
GAIN_NEEDED = 1.1
"""How much faster than the plainer choice (fp32, contiguous, SDPA) another must be: noise is below that."""


def median_seconds(
    call: Callable[[], object],
    device: Device,
    *,
    clock: Callable[[], float] = time.perf_counter,
    shortest_seconds: float = SHORTEST_SECONDS,
) -> float:
    """Median wall-clock time of a call, the device's queue emptied before and after; one call warms up."""
    times: list[float] = []
    for attempt in range(MOST_REPEATS + 1):
        synchronize(device)
        started = clock()
        call()
        synchronize(device)
        seconds = clock() - started
        if attempt == 0 and seconds >= SLOW_SECONDS:
            return seconds
        if attempt:
            times.append(seconds)
        if len(times) >= FEWEST_REPEATS and sum(times) >= shortest_seconds:
            break
    return statistics.median(times)


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


def synchronize(device: Device) -> None:
    """Waits until the device has done all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device.torch_device)
