"""What the simulated machine counted."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

Direction = Literal["host_to_device", "device_to_host", "device_to_device"]


@dataclass(frozen=True)
class Copy:
    """One copy between host and device, or between devices."""

    direction: Direction
    device: int
    """The device; of a copy between devices, the target."""
    bytes: int
    pinned: bool
    """Whether the host side was pinned memory."""
    non_blocking: bool
    stream: int
    """The device's current stream; 0 is the default one."""
    host_address: int
    """Address of the host tensor's first element; 0 if the host side is no tensor."""


@dataclass(frozen=True)
class CpuCount:
    """How often an operator ran on host tensors alone, outside of any device's kernel."""

    count: int
    largest_bytes: int
    """Size of the largest tensor it was given."""


@dataclass(frozen=True)
class DeviceCounts:
    """One device since the last reset, bytes in use apart."""

    allocated_bytes: int
    peak_bytes: int
    reserved_bytes: int
    allocations: int
    lost: bool
    hanging: bool
    freed_while_hanging: int
    """Tensors, ever."""
    executed: dict[str, int]
    """Operators and runtime calls by full name ("aten::add.Tensor", "runtime::malloc")."""
    fell_back: dict[str, int]
    """Operators without a kernel that ran on the CPU instead."""

    def count(self, glob: str) -> int:
        """Return how many operators whose full or base name matches `glob` ran on the device."""
        return sum(number for name, number in self.executed.items() if name_matches(glob, name))


@dataclass(frozen=True)
class Statistics:
    """A snapshot of all counters."""

    devices: tuple[DeviceCounts, ...]
    copies: tuple[Copy, ...]
    copies_dropped: int
    """Copies no longer listed because there were too many."""
    recorded_streams: int
    """Calls of `record_stream`."""
    faults_fired: tuple[int, ...]
    """For each fault set, in order, how often it fired."""
    on_cpu: dict[str, CpuCount]
    """Operators that ran on host tensors."""

    def copies_of(self, tensor: Any) -> tuple[Copy, ...]:
        """Return the copies whose host side was this tensor (its first element's address)."""
        return tuple(copy for copy in self._all_copies() if copy.host_address == tensor.data_ptr())

    def bytes_copied(self, direction: Direction, device: int | None = None) -> int:
        """Return the bytes copied in a direction, to or from one device or all."""
        copies = (copy for copy in self._all_copies() if device in (None, copy.device))
        return sum(copy.bytes for copy in copies if copy.direction == direction)

    def _all_copies(self) -> tuple[Copy, ...]:
        if self.copies_dropped:
            raise RuntimeError(
                f"{self.copies_dropped} copies are no longer listed, so that counting them would give too little: "
                "reset the statistics right before what is counted."
            )
        return self.copies

    def cpu_count(self, glob: str) -> int:
        """Return how many operators whose full or base name matches `glob` ran on host tensors."""
        return sum(entry.count for name, entry in self.on_cpu.items() if name_matches(glob, name))

    def to_json(self) -> dict[str, Any]:
        """Return the snapshot as JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Statistics:
        """Read a snapshot back from its JSON."""
        return cls(
            devices=tuple(DeviceCounts(**entry) for entry in document["devices"]),
            copies=tuple(Copy(**entry) for entry in document["copies"]),
            copies_dropped=document["copies_dropped"],
            recorded_streams=document["recorded_streams"],
            faults_fired=tuple(document["faults_fired"]),
            on_cpu={name: CpuCount(**entry) for name, entry in document["on_cpu"].items()},
        )


def name_matches(glob: str, name: str) -> bool:
    """Whether `glob` matches "aten::add.Tensor" or its base name "add"."""
    base = name if name.startswith("runtime::") else name.partition("::")[2].partition(".")[0]
    return fnmatchcase(name, glob) or fnmatchcase(base, glob)


def snapshot(core: Any) -> Statistics:
    """Read all counters from the extension."""
    return Statistics(
        devices=tuple(_device(core, index) for index in range(core.device_count())),
        copies=tuple(
            Copy(
                copy.direction,
                copy.device,
                copy.bytes,
                copy.pinned,
                copy.non_blocking,
                copy.stream,
                copy.host_address,
            )
            for copy in core.copies()
        ),
        copies_dropped=core.copies_dropped(),
        recorded_streams=core.recorded_streams(),
        faults_fired=tuple(rule.fired for rule in core.rules()),
        on_cpu={name: CpuCount(*entry) for name, entry in core.on_cpu().items()},
    )


def _device(core: Any, index: int) -> DeviceCounts:
    memory = core.memory_stats(index)
    return DeviceCounts(
        allocated_bytes=memory["allocated_bytes"]["all"]["current"],
        peak_bytes=memory["allocated_bytes"]["all"]["peak"],
        reserved_bytes=memory["reserved_bytes"]["all"]["current"],
        allocations=memory["allocation"]["all"]["allocated"],
        lost=core.is_lost(index),
        hanging=core.is_hanging(index),
        freed_while_hanging=core.freed_while_hanging(index),
        executed=core.executed(index),
        fell_back=core.fell_back(index),
    )
