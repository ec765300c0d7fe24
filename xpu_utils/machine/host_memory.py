"""How much of the host's memory there is for this process: the machine's, or what its container leaves."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")

# Version of control groups -> the files with the limit and the use, and the line of memory.stat with the cached file
# pages that the kernel gives back first (Linux, Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst).
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


@dataclasses.dataclass(frozen=True)
class HostMemory:
    """Main memory at one moment."""

    total_bytes: int
    available_bytes: int


def read_host_memory(own: Path = OWN_GROUPS, root: Path = CONTROL_GROUPS) -> HostMemory:
    """The machine's memory, or that of the tightest control group around this process."""
    machine = psutil.virtual_memory()
    total_bytes, available_bytes = machine.total, machine.available
    for folder, version in _groups(own, root):
        group = _read_group(folder, version)
        if group is not None and group.total_bytes < machine.total:  # without a limit it is a huge number
            total_bytes = min(total_bytes, group.total_bytes)
            available_bytes = min(available_bytes, group.available_bytes)
    return HostMemory(total_bytes, available_bytes)


@functools.cache
def _groups(own: Path, root: Path) -> tuple[tuple[Path, int], ...]:
    """The folders of this process's control groups and of those around them, where Linux has them."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    groups: list[tuple[Path, int]] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = root / controllers
            inner = top / path.lstrip("/")  # not there where a container sees its own group as the root
            around = [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
            groups += [(folder, 1 if controllers else 2) for folder in around]
    return tuple(groups)


def _read_group(folder: Path, version: int) -> HostMemory | None:
    """None where the group is not visible here or has no limit."""
    limit, used, cached = _FILES[version]
    try:
        total_bytes = int((folder / limit).read_text())
        used_bytes = int((folder / used).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    held_bytes = used_bytes - int(statistics.get(cached, 0))
    return HostMemory(total_bytes, max(0, total_bytes - held_bytes))
