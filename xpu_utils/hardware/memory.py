"""Does each source of free memory tell the truth? Each against an allocation whose size is known."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch

from ..machine.devices import Device
from ..machine.timing import synchronize
from ..memory.free import read_memory
from ..recovery.faults import first_line
from ..telemetry.readings import MemoryReading, SourceFactory, Unavailable
from ..telemetry.sources import OF_MEMORY

LARGEST_BYTES = 1 << 30
BELIEVED = "believed"
"""The answer of `read_memory`, which passes over sources that it does not believe."""
TOLERANCE = 0.1
"""Of the allocation: drivers give memory in pages of up to 2 MiB, and other programs go on meanwhile."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """What one source says of an allocation."""

    source: str
    total_bytes: int | None = None
    allocated_bytes: int | None = None
    seen_bytes: int | None = None
    """By how much the used memory grew with it."""
    freed_bytes: int | None = None
    """By how much it fell again."""
    problem: str = ""
    """What is wrong with its answer; empty where it is right."""
    unavailable: str = ""
    """Why it does not answer."""

    def __str__(self) -> str:
        return self.source


def memory_truth(device: Device) -> Iterator[Truth]:
    """Each source of a device's memory, and the answer that decisions are made from."""
    for name, read in _sources(device):
        try:
            yield _truth(device, name, read)
        except Unavailable as error:
            yield Truth(name, unavailable=first_line(error)[:200])


def _sources(device: Device) -> Iterator[tuple[str, Callable[[], MemoryReading]]]:
    if device.type != "cpu":
        for factory in OF_MEMORY:
            yield factory.name, functools.partial(_asked, factory, device)
    yield BELIEVED, functools.partial(_believed, device)


def _asked(factory: SourceFactory, device: Device) -> MemoryReading:
    return factory(device).memory()


def _believed(device: Device) -> MemoryReading:
    memory = read_memory(device)
    return MemoryReading(memory.total_bytes, memory.total_bytes - memory.free_bytes, sees_others=True)


def _truth(device: Device, name: str, read: Callable[[], MemoryReading]) -> Truth:
    before = read()
    allocated_bytes = min(LARGEST_BYTES, before.free_bytes // 4) if before.sees_others else LARGEST_BYTES // 4
    held = torch.ones(allocated_bytes, dtype=torch.uint8, device=device.torch_device)  # written to, so really taken
    synchronize(device)
    during = read()
    del held
    if device.type != "cpu":
        torch.get_device_module(device.type).empty_cache()
    after = read()
    seen_bytes, freed_bytes = during.used_bytes - before.used_bytes, during.used_bytes - after.used_bytes
    wrong = [
        f"{what} {seen / (1 << 20):.0f} of {allocated_bytes / (1 << 20):.0f} MiB"
        for what, seen in (("saw", seen_bytes), ("saw freed", freed_bytes))
        if abs(seen - allocated_bytes) > TOLERANCE * allocated_bytes
    ]
    return Truth(name, before.total_bytes, allocated_bytes, seen_bytes, freed_bytes, ", ".join(wrong))
