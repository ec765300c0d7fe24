"""The report on a machine's devices: every part in a process of its own, and what names nobody in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..doctor import probe
from ..doctor.examine import described, examine
from ..doctor.machine import Machine
from ..doctor.privacy import scrubbed_here
from ..machine.devices import Device
from .parts import FILL, FORMATS_PART, PARTS, WORDS, WRONG

Start = Callable[[str, str], Sequence[str]]
"""The command that runs a part on a device."""

ENDED = "ended"
"""Where a report says how a part ended that did not end well."""


def start_part(device: str, part: str) -> Sequence[str]:
    return probe.module_command("xpu_utils.hardware.parts", device, part)


def report(
    machine: Machine,
    devices: Iterable[Device],
    *,
    tell: Callable[[str], None],
    fill: bool = False,
    start: Start = start_part,
) -> dict[str, Any]:
    """Runs every part on every device.

    Args:
        fill: also fill each device's memory until it refuses, which may stop a machine.
        tell: is told what runs.

    Returns:
        Plain data without names, paths and ids.
    """
    found: dict[str, Any] = {}
    for device in devices:
        found[device.id] = {}
        for name, part in PARTS.items():
            if name != FILL or fill:
                tell(f"{device.id}: {name}, {part.limit_seconds / 60:.0f} min at most")
                found[device.id][name] = answered(start(device.id, name), part.limit_seconds)
    data = {"report": "xpu-nodes hardware 1", **described(machine, examine(machine)), "parts": found}
    return dict(scrubbed_here(data))


def answered(command: Sequence[str], limit_seconds: float) -> dict[str, Any]:
    """What a child process found, a line of JSON each, and how it ended if not well."""
    ended = probe.watched(command, limit_seconds=limit_seconds)
    found = {"found": list(probe.whole_lines(ended.output))}
    if ended.code is None:
        return {**found, ENDED: f"not within {limit_seconds:.0f} s"}
    return {**found, ENDED: f"by {probe.ended_by(ended.code)}: {ended.error}"} if ended.code else found


def as_text(data: Mapping[str, Any]) -> str:
    """A line a part: how much of it is as it should be, and what is not; the formats, one by one."""
    lines = []
    for device, parts in data["parts"].items():
        for name, part in parts.items():
            wrong = [entry for entry in part["found"] if entry[WRONG]]
            line = f"{device}, {name}: {len(part['found']) - len(wrong)} of {len(part['found'])} as they should be"
            lines.append(f"{line}; it ended {part[ENDED]}" if ENDED in part else line)
            lines += [f"  {entry[WORDS]}: {entry[WRONG]}" for entry in wrong]
            lines += [f"  {entry[WORDS]}" for entry in part["found"] if name == FORMATS_PART and not entry[WRONG]]
    return "\n".join(lines)
