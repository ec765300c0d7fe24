"""What each process does on a GPU, as the kernel tells in /proc/*/fdinfo.

Format: the kernel's Documentation/gpu/drm-usage-stats.rst; region and engine names of i915 and xe beside it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from .readings import Unavailable

RESCAN_SECONDS = 30.0
"""A file that a process opens on a GPU is seen after this long at the latest."""

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

_DEVICE_REGIONS = ("vram", "local", "stolen-local")
_SYSTEM_REGIONS = ("system", "gtt", "stolen", "stolen-system")
"""Memory regions of i915 and xe, which both number those of one kind: local0, vram1."""
_REGION_NUMBER = re.compile(r"\d+$")


@dataclasses.dataclass(frozen=True)
class Client:
    """One open file on a GPU."""

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


def parse(text: str) -> Client | None:
    """Reads one fdinfo file; None where it is not that of a GPU.

    Raises:
        Unavailable: it holds a figure in another form than the kernel's documentation tells.
    """
    fields = dict(line.split(":", 1) for line in text.splitlines() if line.startswith("drm-") and ":" in line)
    fields = {key: value.strip() for key, value in fields.items()}
    if "drm-pdev" not in fields or "drm-client-id" not in fields:
        return None
    return Client(
        client_id=fields["drm-client-id"],
        pci_address=fields["drm-pdev"],
        device_bytes=_resident_bytes(fields, _DEVICE_REGIONS),
        system_bytes=_resident_bytes(fields, _SYSTEM_REGIONS),
        busy=_counters(fields, "drm-engine-") | _counters(fields, "drm-cycles-"),
        clock=_counters(fields, "drm-total-cycles-"),
        capacity=_counters(fields, "drm-engine-capacity-"),
    )


def _resident_bytes(fields: Mapping[str, str], regions: tuple[str, ...]) -> int:
    """Resident bytes of the named regions; kernels that tell only totals are taken at that."""
    names = {key.split("-", 2)[2] for key in fields if key.startswith(("drm-resident-", "drm-total-"))}
    chosen = [name for name in names if _REGION_NUMBER.sub("", name) in regions]
    return sum(_bytes(fields.get(f"drm-resident-{name}") or fields[f"drm-total-{name}"]) for name in chosen)


def _bytes(value: str) -> int:
    number, _, unit = value.partition(" ")
    if unit.strip() not in _UNITS:
        raise Unavailable(f"fdinfo gives a size in an unknown unit ({value})")
    return _integer(number) * _UNITS[unit.strip()]


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise Unavailable(f"fdinfo gives {text!r} where a number belongs") from error


def _counters(fields: Mapping[str, str], prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, value in fields.items():
        name = ENGINES.get(key.removeprefix(prefix)) if key.startswith(prefix) else None
        if name is not None:
            found[name] = _integer(value.partition(" ")[0])
    return found


class OpenFiles:
    """The files that processes hold open on GPUs.

    To find them every file of every process is looked at (79 ms for 9,000 of them), so they are remembered and looked
    for again after `RESCAN_SECONDS`. What they tell is read anew each time.

    Args:
        proc: /proc, or a recorded one.
    """

    def __init__(self, proc: Path = Path("/proc"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._found: tuple[float, tuple[Path, ...]] = (float("-inf"), ())

    def clients(self, pci_address: str) -> list[Client]:
        """Every open file on that GPU that this user may see, each counted once.

        Raises:
            Unavailable: a file holds something unknown.
        """
        seen: dict[str, Client] = {}
        for path in self._paths():
            try:
                client = parse(path.read_text())
            except _GONE:
                continue
            if client is not None and client.pci_address == pci_address:
                seen.setdefault(client.client_id, client)
        return list(seen.values())

    def _paths(self) -> tuple[Path, ...]:
        looked_at, paths = self._found
        if self._clock() - looked_at >= RESCAN_SECONDS:
            paths = tuple(_gpu_files(self._proc))
            self._found = (self._clock(), paths)
        return paths


_GONE = (PermissionError, FileNotFoundError, ProcessLookupError)
"""Another user's, or closed or ended since it was listed."""


def _gpu_files(proc: Path) -> Iterator[Path]:
    """The fdinfo of each file that lies in /dev/dri."""
    for folder in proc.glob("[0-9]*"):
        try:
            names = os.listdir(folder / "fd")
        except _GONE:
            continue
        for name in names:
            try:
                if os.readlink(folder / "fd" / name).startswith("/dev/dri/"):
                    yield folder / "fdinfo" / name
            except _GONE:
                continue


OPEN_FILES = OpenFiles()
"""Those of this machine, shared by all of its devices."""
