"""Lays out a recorded machine as a folder tree, and describes devices as torch would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xpu_utils.machine.devices import Device
from xpu_utils.machine.profiles import PROFILES, Architecture

MACHINES = Path(__file__).parent / "machines"
GIB = 1 << 30


def lay_out(name: str, target: Path) -> tuple[Path, Path]:
    """Writes the machine's files under `target`; answers (its /sys/class/drm, its /proc)."""
    for part in (MACHINES / f"{name}.txt").read_text(encoding="utf-8").split("== ")[1:]:
        head, _, content = part.partition("\n")
        path_text, _, link = head.partition(" -> ")
        path = target / path_text
        path.parent.mkdir(parents=True, exist_ok=True)
        if link:
            path.symlink_to(link)
        else:
            path.write_text(content, encoding="utf-8")
    return target / "sys", target / "proc"


def xpu(**changes: Any) -> Device:
    """An Arc A770 at 0000:03:00.0, or whatever the changes make of it."""
    facts: dict[str, Any] = {
        "type": "xpu",
        "index": 0,
        "name": "Intel(R) Arc(TM) A770 Graphics",
        "architecture": Architecture.ALCHEMIST,
        "total_bytes": 16 * GIB,
        "integrated": False,
        "fp16": True,
        "bf16": True,
        "fp64": False,
        "driver_version": "1.6.33578",
        "uuid": "8680a056-0800-0000-0300-000000000000",
        "pci_device_id": 0x56A0,
        "pci_address": "",
        "compute_units": 512,
    }
    facts |= changes
    profile = PROFILES[facts["architecture"]]
    limit_bytes = profile.single_allocation_limit_bytes
    return Device(**{"profile": profile, "single_allocation_limit_bytes": limit_bytes, **facts})


def b580(**changes: Any) -> Device:
    facts: dict[str, Any] = {
        "name": "Intel(R) Arc(TM) B580 Graphics",
        "architecture": Architecture.BATTLEMAGE,
        "total_bytes": 12 * GIB,
        "uuid": "86800be2-0000-0000-0400-000000000000",
        "pci_device_id": 0xE20B,
    }
    return xpu(**{**facts, **changes})


def lunar_lake(**changes: Any) -> Device:
    facts: dict[str, Any] = {
        "name": "Intel(R) Arc(TM) 140V GPU",
        "architecture": Architecture.LUNAR_LAKE,
        "integrated": True,
        "uuid": "",
        "pci_device_id": 0x64A0,
    }
    return xpu(**{**facts, **changes})
