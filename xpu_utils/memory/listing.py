"""The devices of this machine and what is free on each, as text and as JSON."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable

from ..machine.devices import Device, Inventory
from ..telemetry.readings import FreeMemory, Unavailable
from .free import read_memory
from .sizes import GIB

Read = Callable[[Device], FreeMemory]


def as_json(inventory: Inventory) -> str:
    devices = [
        {"id": device.id, **dataclasses.asdict(device), "memory": _plain_memory(device)} for device in inventory.devices
    ]
    rejected = [dataclasses.asdict(rejection) for rejection in inventory.rejected]
    return json.dumps({"devices": devices, "rejected": rejected}, indent=2, default=_plain)


def _memory(device: Device, read: Read) -> FreeMemory | str:
    """What is free, or why nothing tells."""
    try:
        return read(device)
    except Unavailable as error:
        return f"free memory unknown: {error}"


def _plain_memory(device: Device) -> dict[str, object] | None:
    memory = _memory(device, read_memory)
    return dataclasses.asdict(memory) if isinstance(memory, FreeMemory) else None


def _plain(value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else str(value)


def as_text(inventory: Inventory, read: Read = read_memory) -> str:
    """Two lines a device, what it is and what of its memory is free, and one a rejection."""
    lines = []
    for device in inventory.devices:
        formats = " ".join(name for name in ("fp16", "bf16", "fp64") if getattr(device, name))
        kind = "integrated" if device.integrated else "discrete"
        limit = device.single_allocation_limit_bytes
        facts = [device.name, f"{device.total_bytes / GIB:.1f} GiB", formats]
        if device.type != "cpu":
            facts[1:1] = [device.architecture.value, kind]
            facts += [f"driver {device.driver_version or 'unknown'}"]
        if limit is not None:
            facts.append(f"at most {limit / GIB:.0f} GiB in one allocation")
        lines += [f"{device.id}: {', '.join(facts)}", f"{device.id}: {_memory(device, read)}"]
    lines += [f"not usable, {entry.what}: {entry.why}; {entry.fix}." for entry in inventory.rejected]
    return "\n".join(lines)
