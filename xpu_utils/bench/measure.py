"""One measurement, and how a call on a device is timed."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

from ..machine.devices import Device
from ..recovery.faults import first_line

SHORTEST_SECONDS = 0.3
"""An operation is repeated for at least this long ..."""
FEWEST_REPEATS = 3
"""... and at least this often."""
MOST_REPEATS = 200
SLOW_SECONDS = 2.0
"""A first call this slow is the measurement: warming up matters little, and half a minute of repeats too much."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One operation on one device."""

    name: str
    device: str
    precision: str
    seconds: float | None
    """Median time of one call; None where it could not run."""
    rate: float | None
    """Work per second, in `unit`."""
    unit: str
    ceiling: float | None = None
    """The rate that the hardware cannot exceed, in `unit`, where it is known."""
    ceiling_source: str = ""
    problem: str = ""
    """Why it could not run."""

    @property
    def share(self) -> float | None:
        """Rate over ceiling."""
        return self.rate / self.ceiling if self.rate is not None and self.ceiling else None


def median_seconds(
    call: Callable[[], object], device: Device, *, clock: Callable[[], float] = time.perf_counter
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
        if len(times) >= FEWEST_REPEATS and sum(times) >= SHORTEST_SECONDS:
            break
    return statistics.median(times)


def measure(
    name: str,
    device: Device,
    precision: str,
    prepare: Callable[[], Callable[[], object]],
    *,
    work: float,
    unit: str,
    ceiling: tuple[float, str] | None = None,
    seconds_of: Callable[[Callable[[], object], Device], float] = median_seconds,
) -> Measurement:
    """Times a call.

    Args:
        prepare: puts what the call needs onto the device and answers the call.
        work: what one call does: operations where `unit` is "FLOP/s", bytes for "B/s".
        ceiling: the rate that the hardware cannot exceed, and what that was worked out from.

    Returns:
        The measurement; where preparing or calling fails on that device, one without figures that says why.
    """
    try:
        seconds = seconds_of(prepare(), device)
    except (RuntimeError, TypeError) as error:  # what torch raises for a missing kernel, precision or memory
        problem = first_line(error)[:200]
        return Measurement(name, device.id, precision, None, None, unit, problem=problem)
    return Measurement(name, device.id, precision, seconds, work / seconds, unit, *(ceiling or ()))


def synchronize(device: Device) -> None:
    """Waits until the device has done all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device.torch_device)
