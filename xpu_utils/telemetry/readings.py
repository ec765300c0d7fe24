"""The figures that sources answer with, and how a failed reading is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from ..machine.devices import Device


class Unavailable(Exception):
    """A source cannot give a figure; the text says why, in one clause."""


@dataclasses.dataclass(frozen=True)
class MemoryReading:
    """Memory of one device at one moment."""

    source: str
    total_bytes: int
    used_bytes: int
    """Used by everybody the source can see."""
    own_bytes: int
    """Used by this process."""
    sees_others: bool
    """The source counts other processes; if not, `used_bytes` is only a lower bound."""

    @property
    def free_bytes(self) -> int:
        return max(0, self.total_bytes - self.used_bytes)

    @property
    def others_bytes(self) -> int | None:
        """Used by other processes; None where the source cannot tell."""
        return max(0, self.used_bytes - self.own_bytes) if self.sees_others else None


@dataclasses.dataclass(frozen=True)
class DeviceSample:
    """One look at one device; what could not be read is None (or absent) and named in `missing`."""

    device: str
    name: str
    memory: MemoryReading | None
    engine_percent: Mapping[str, float]
    """Busy share by engine: "compute", "render", "copy", "video", ... or "all"."""
    temperature_celsius: float | None
    power_watts: float | None
    frequency_mhz: float | None
    sources: Mapping[str, str]
    """Which source gave which quantity."""
    missing: Mapping[str, str]
    """Quantity and why no source gave it."""


@dataclasses.dataclass(frozen=True)
class HostSample:
    """Main memory and processor."""

    total_bytes: int
    used_bytes: int
    own_bytes: int
    """Resident in this process."""
    cpu_percent: float
    """Over all cores, since the sample before."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """The machine at one moment."""

    taken_at: float
    """Seconds since the epoch."""
    host: HostSample | None
    host_problem: str
    """Why the host could not be read; empty where it was."""
    devices: tuple[DeviceSample, ...]


class Source(Protocol):
    """One way of reading one device. Methods answer None while a rate lacks its first interval.

    Every method may raise `Unavailable`, and may block: never call one on an event loop.
    """

    name: str

    def memory(self) -> MemoryReading: ...
    def engines(self) -> Mapping[str, float] | None: ...
    def temperature(self) -> float: ...
    def power(self) -> float | None: ...
    def frequency(self) -> float: ...


class SourceFactory(Protocol):
    """Finds a device in one source, by UUID or PCI address."""

    name: str

    def __call__(self, device: Device) -> Source:
        """Raises `Unavailable` where the source does not know the device."""


class Rate:
    """The growth of a counter per unit of its own clock, from one reading to the next."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def update(self, value: float, clock: float) -> float | None:
        """None for the first reading, for a clock that stood still and for a counter that was reset."""
        last, self._last = self._last, (value, clock)
        if last is None or clock <= last[1] or value < last[0]:
            return None
        return (value - last[0]) / (clock - last[1])
