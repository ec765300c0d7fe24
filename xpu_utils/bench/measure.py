"""One measurement of a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from ..machine.devices import Device
from ..machine.timing import median_seconds
from ..recovery.faults import first_line


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

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}" if self.precision else self.name


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
