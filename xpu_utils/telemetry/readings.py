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
    """What one source tells of a device's memory, believed or not."""

    total_bytes: int
    used_bytes: int
    """Used by everybody the source can see."""
    sees_others: bool
    """The source counts other processes; if not, `used_bytes` is only a lower bound."""

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes


@dataclasses.dataclass(frozen=True)
class FreeMemory:
    """What can be allocated on a device at one moment: the one figure that decisions are made from and pages show."""

    device: str
    free_bytes: int
    """Never below 0 or above `total_bytes`; counts `cached_bytes`, as ComfyUI's own figure does."""
    total_bytes: int
    own_bytes: int
    """Held for this process, `cached_bytes` included."""
    cached_bytes: int
    """Held by PyTorch's allocator for this process, but in no tensor."""
    others_bytes: int | None
    """Used by anything else; None where no source ever told."""
    source: str
    """"torch" (the driver), "sysman", "kernel", "allocator" (blind to other processes), or "host" for the CPU."""
    distrusted: tuple[str, ...] = ()
    """Sources that were passed over, each with the reason: "torch: answers 0 bytes free"."""
    takes_host_memory: bool = False
    """What is allocated here takes as much main memory: integrated GPUs, and cards with drivers that were measured."""

    def __str__(self) -> str:
        line = f"{self.free_bytes / 2**30:.1f} of {self.total_bytes / 2**30:.1f} GiB free (source {self.source})"
        if self.takes_host_memory and self.source != "host":
            line += ", taken from main memory as well"
        return f"{line}, passed over {'; '.join(self.distrusted)}" if self.distrusted else line


@dataclasses.dataclass(frozen=True)
class DeviceSample:
    """One look at one device; what could not be read is None (or absent) and named in `missing`."""

    device: str
    name: str
    memory: FreeMemory | None
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


class MemorySource(Protocol):
    """One way of reading one device. Every method may raise `Unavailable`, and may block.

    One that has sensors has `engines`, `temperature`, `power` and `frequency` as well, with None while a rate lacks its
    first interval.
    """

    name: str

    def memory(self) -> MemoryReading: ...


class SourceFactory(Protocol):
    """Finds a device in one source, by UUID or PCI address."""

    name: str

    def __call__(self, device: Device) -> MemorySource:
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
