"""How much memory of a device is free: sources in order, each checked, the believed one named with the figure."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

import psutil

from ..machine.devices import Device
from ..machine.host_memory import HostMemory, read_host_memory
from ..telemetry.framework import allocator_bytes, memory_fraction
from ..telemetry.monitor import ANSWER_SECONDS, LazySource
from ..telemetry.readings import FreeMemory, MemoryReading, SourceFactory, Unavailable
from ..telemetry.sources import OF_MEMORY
from .shadow import Look, ShadowCheck

KNOWN_ALLOCATION_BYTES = 64 << 20
"""A change of our own memory that every honest source shows, whatever else happens on the device."""

FRESH_SECONDS = 0.1
"""How long the share of other processes is at least taken as known: attention may ask in every layer."""

LARGEST_COST = 0.05
"""Share of the time that reading may take: a slow source (fdinfo with many processes) is asked more rarely, ..."""

STALE_SECONDS = 1.0
"""... but at least this often."""


LARGEST_DIFFERENCE = 0.25
"""Part of a card's memory by which sources may differ in its total: else it is another card's, or several tiles'."""


_holders: list[Callable[[Device], int]] = []


def count_as_ours(held_bytes: Callable[[Device], int]) -> None:
    """Has what somebody else keeps on a device for this process count as ours, like PyTorch's own allocations.

    Args:
        held_bytes: all that this process holds on a device by that account, PyTorch's part included.
    """
    _holders.append(held_bytes)


def read_memory(device: Device) -> FreeMemory:
    """What is free on a device now. Cheap enough for every model call; allocates nothing.

    Raises:
        Unavailable: this build of PyTorch does not even tell what it holds itself, or the driver does not answer.
    """
    if device.type == "cpu":
        memory = read_host_memory()
        used_bytes, own_bytes = memory.total_bytes - memory.available_bytes, psutil.Process().memory_info().rss
        others_bytes = max(0, used_bytes - own_bytes)
        return FreeMemory(
            device.id, memory.available_bytes, memory.total_bytes, own_bytes, 0, others_bytes, "host", (), True
        )
    with _readers_lock:
        reader = _readers.setdefault(device, MemoryReader(device))
    return reader.read()


class MemoryReader:
    """Reads one device, remembering which sources cannot be believed. Safe to use from several threads."""

    def __init__(
        self,
        device: Device,
        *,
        sources: Sequence[SourceFactory] = OF_MEMORY,
        clock: Callable[[], float] = time.monotonic,
        host: Callable[[], HostMemory] = read_host_memory,
        resident_bytes: Callable[[], int] = lambda: int(psutil.Process().memory_info().rss),
    ) -> None:
        self._device = device
        self._host = host
        self._resident_bytes = resident_bytes
        self._shadow = ShadowCheck()
        self._sources = [(LazySource(factory, device, clock), _FrozenCheck()) for factory in sources]
        self._clock = clock
        self._lock = threading.Lock()
        self._sample: _Sample | None = None
        self._asked_at = self._due_at = 0.0

    def read(self) -> FreeMemory:
        """What is free now: our own part exactly, that of others as it was a moment ago.

        Raises:
            Unavailable: PyTorch does not tell what it holds, or the driver does not answer.
        """
        reserved_bytes, active_bytes = allocator_bytes(self._device)
        held_bytes = max([reserved_bytes, *(held(self._device) for held in _holders)])
        sample = self._latest_sample(held_bytes)
        # What is in use there is not free here.
        limit_bytes = self._host().available_bytes if sample.takes_host_memory else sample.total_bytes
        return _free_memory(self._device, sample, held_bytes, max(0, reserved_bytes - active_bytes), limit_bytes)

    def _latest_sample(self, held_bytes: int) -> _Sample:
        """Asks the sources where their last answer is old. While another thread asks them, that answer still holds."""
        if self._lock.acquire(timeout=0 if self._sample else ANSWER_SECONDS):
            try:
                started = self._clock()
                if self._sample is None or started >= self._due_at:
                    self._asked_at = started
                    self._sample = self._take_sample(held_bytes)
                    cost_seconds = self._clock() - started
                    self._due_at = started + min(STALE_SECONDS, max(FRESH_SECONDS, cost_seconds / LARGEST_COST))
                return self._sample
            finally:
                self._lock.release()
        waited_seconds = self._clock() - self._asked_at
        if self._sample is None or waited_seconds > ANSWER_SECONDS:
            raise Unavailable(f"the driver of {self._device.id} has not answered for {waited_seconds:.0f} s")
        return self._sample

    def _take_sample(self, held_bytes: int) -> _Sample:
        """The first source that answers and passes the checks."""
        distrusted: list[str] = []
        zero_seen = False
        for source, frozen in self._sources:
            try:
                reading = source.read("memory")
            except Unavailable as error:
                distrusted.append(f"{source.name}: {error}")
                continue
            problem = _problem(self._device, reading, held_bytes, zero_seen) or frozen.problem(reading, held_bytes)
            if not problem:
                return self._believed(reading, held_bytes, source.name, tuple(distrusted))
            zero_seen = zero_seen or (reading.free_bytes == 0 and reading.sees_others)
            distrusted.append(f"{source.name}: {problem}")
        raise Unavailable(f"no source tells the memory of {self._device.id} ({'; '.join(distrusted)})")

    def _believed(self, reading: MemoryReading, held_bytes: int, source: str, distrusted: tuple[str, ...]) -> _Sample:
        others_bytes: int | None
        if reading.sees_others:
            others_bytes = max(0, reading.used_bytes - held_bytes)
        else:  # what other processes held when a source that sees them was last believed is the best there is
            others_bytes = self._sample.others_bytes if self._sample else None
        look = Look(held_bytes, self._host().available_bytes, self._resident_bytes())
        takes_host_memory = self._device.integrated or self._shadow.look(look)
        return _Sample(reading.total_bytes, others_bytes, source, distrusted, takes_host_memory)


@dataclasses.dataclass(frozen=True)
class _Sample:
    """What does not change with our own allocations."""

    total_bytes: int
    others_bytes: int | None
    """Used by anything but PyTorch's allocator in this process and what counts like it; None where nothing tells."""
    source: str
    distrusted: tuple[str, ...]
    takes_host_memory: bool
    """An integrated GPU's memory is the host's, and some drivers take as much of that for a card's."""


class _FrozenCheck:
    """Finds a source whose answer stands still while our own memory does not (pytorch #161381)."""

    def __init__(self) -> None:
        self._free_bytes: int | None = None
        self._reserved_bytes = 0
        self._frozen = False

    def problem(self, reading: MemoryReading, reserved_bytes: int) -> str:
        """Empty while the source can be believed; one that moves again is believed again."""
        if reading.free_bytes != self._free_bytes:
            self._free_bytes, self._reserved_bytes, self._frozen = reading.free_bytes, reserved_bytes, False
        elif reading.sees_others and abs(reserved_bytes - self._reserved_bytes) >= KNOWN_ALLOCATION_BYTES:
            self._frozen = True
        return f"still answers {reading.free_bytes} bytes free after allocations" if self._frozen else ""


def _problem(device: Device, reading: MemoryReading, reserved_bytes: int, zero_seen: bool) -> str:
    """Why a reading cannot be true; empty where it can."""
    if reading.total_bytes <= 0:
        return "answers 0 bytes in total"
    if not reading.sees_others:
        return ""
    difference_bytes = (
        0 if device.integrated else abs(reading.total_bytes - (device.total_bytes or reading.total_bytes))
    )
    if difference_bytes > LARGEST_DIFFERENCE * device.total_bytes:
        return f"answers {reading.total_bytes} bytes in total for a device of {device.total_bytes}"
    if not 0 <= reading.used_bytes <= reading.total_bytes:
        return f"answers {reading.used_bytes} bytes used of {reading.total_bytes}"
    if reading.used_bytes < reserved_bytes:
        return f"sees {reading.used_bytes} bytes in use although {reserved_bytes} are held here"
    # Some drivers answer 0 whatever is free (vllm #49273); a second source that says so too is believed.
    if reading.free_bytes == 0 and not zero_seen:
        return "answers 0 bytes free"
    return ""


def _free_memory(device: Device, sample: _Sample, held_bytes: int, cached_bytes: int, limit_bytes: int) -> FreeMemory:
    """What the driver can still give, plus what the allocator holds in reserve."""
    total_bytes = device.total_bytes or sample.total_bytes
    limits = [
        sample.total_bytes - (sample.others_bytes or 0) - held_bytes,
        int(memory_fraction(device) * total_bytes) - held_bytes,
        limit_bytes,
    ]
    free_bytes = min(max(0, min(limits)) + cached_bytes, total_bytes)
    return FreeMemory(
        device.id,
        free_bytes,
        total_bytes,
        held_bytes,
        cached_bytes,
        sample.others_bytes,
        sample.source,
        sample.distrusted,
        sample.takes_host_memory,
    )


_readers: dict[Device, MemoryReader] = {}
_readers_lock = threading.Lock()
