"""How long a call on a device takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from .devices import Device

SHORTEST_SECONDS = 0.3
"""An operation is repeated for at least this long ..."""
FEWEST_REPEATS = 3
"""... and at least this often."""
MOST_REPEATS = 200
SLOW_SECONDS = 2.0
"""A first call this slow is the measurement: warming up matters little, and half a minute of repeats too much."""


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


def synchronize(device: Device) -> None:
    """Waits until the device has done all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device.torch_device)
