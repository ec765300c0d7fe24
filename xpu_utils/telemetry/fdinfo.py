"""What each process does on a GPU, as the kernel tells in /proc/*/fdinfo.

Format: the kernel's Documentation/gpu/drm-usage-stats.rst; region and engine names of i915 and xe beside it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

ENGINES = {
    "render": "render",
    "compute": "compute",
    "copy": "copy",
    "video": "video",
    "video-enhance": "video enhance",
    "rcs": "render",
    "ccs": "compute",
    "bcs": "copy",
    "vcs": "video",
    "vecs": "video enhance",
}
"""Names for the engines of i915 (busy nanoseconds) and xe (busy cycles)."""


@dataclasses.dataclass(frozen=True)
class Client:
    """One open file on a GPU."""

    process: int
    client_id: str
    pci_address: str
    device_bytes: int
    """Resident in memory of the card's own (vram, local)."""
    system_bytes: int
    """Resident in main memory."""
    busy: Mapping[str, int]
    """Counter by engine: nanoseconds (i915) or cycles (xe)."""
    clock: Mapping[str, int]
    """Cycles passed, by engine (xe only)."""
    capacity: Mapping[str, int]
    """Engines of that kind, where there is more than one."""


def parse(text: str, process: int) -> Client | None:
    """Reads one fdinfo file; None where it is not that of a GPU."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("drm-") and ":" in line)
    fields = {key: value.strip() for key, value in fields.items()}
    if "drm-pdev" not in fields or "drm-client-id" not in fields:
        return None
    return Client(
        process=process,
        client_id=fields["drm-client-id"],
        pci_address=fields["drm-pdev"],
        device_bytes=_resident_bytes(fields, ("vram", "local")),
        system_bytes=_resident_bytes(fields, ("system", "gtt", "stolen")),
        busy=_counters(fields, "drm-engine-") | _counters(fields, "drm-cycles-"),
        clock=_counters(fields, "drm-total-cycles-"),
        capacity=_counters(fields, "drm-engine-capacity-"),
    )


def _resident_bytes(fields: Mapping[str, str], regions: tuple[str, ...]) -> int:
    """Resident bytes of the named regions; kernels that tell only totals are taken at that."""
    names = {key.split("-", 2)[2] for key in fields if key.startswith(("drm-resident-", "drm-total-"))}
    chosen = [name for name in names if name.startswith(regions) and not name.startswith("cycles")]
    return sum(_bytes(fields.get(f"drm-resident-{name}") or fields[f"drm-total-{name}"]) for name in chosen)


def _bytes(value: str) -> int:
    number, _, unit = value.partition(" ")
    return int(number) * _UNITS[unit.strip()]


def _counters(fields: Mapping[str, str], prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, value in fields.items():
        name = ENGINES.get(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if name is not None:
            found[name] = int(value.split()[0])
    return found


def clients(pci_address: str, proc: Path = Path("/proc")) -> list[Client]:
    """Every open file on that GPU that this user may see, each counted once."""
    seen: dict[str, Client] = {}
    for text, process in _gpu_files(proc):
        client = parse(text, process)
        if client is not None and client.pci_address == pci_address:
            seen.setdefault(client.client_id, client)
    return list(seen.values())


def _gpu_files(proc: Path) -> Iterator[tuple[str, int]]:
    """(text, process) of each fdinfo whose file lies in /dev/dri; other users' processes are passed over."""
    for folder in proc.glob("[0-9]*"):
        try:
            names = os.listdir(folder / "fd")
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            continue
        for name in names:
            try:
                if os.readlink(folder / "fd" / name).startswith("/dev/dri/"):
                    yield (folder / "fdinfo" / name).read_text(), int(folder.name)
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue  # closed, or ended, since it was listed
