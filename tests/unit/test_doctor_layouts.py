"""Trees of /sys and /dev of public reports, whose PyTorch shows no device: what the doctor makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from xpu_utils.doctor.examine import examine
from xpu_utils.doctor.findings import State
from xpu_utils.doctor.machine import look

from .healthy_machine import NOTHING, WEDGED, WSL, machine

Gpus = Mapping[str, tuple[str, str]]
"""Render node -> vendor and device."""


def lay_out(folder: Path, gpus: Gpus, nodes: Sequence[str]) -> None:
    """The GPUs on the bus, each with its driver and render node, and the nodes that are in /dev/dri."""
    for number, (node, (vendor, device)) in enumerate(gpus.items()):
        card = folder / "sys" / "bus" / "pci" / "devices" / f"0000:0{number + 3}:00.0"
        (card / "drm" / node).mkdir(parents=True)
        for name, content in {"vendor": vendor, "device": device, "class": "0x030000"}.items():
            (card / name).write_text(f"{content}\n")
        driver = folder / "drivers" / {"0x10de": "nvidia", "0x1002": "amdgpu"}.get(vendor, "xe")
        driver.mkdir(parents=True, exist_ok=True)
        (card / "driver").symlink_to(driver)
        shown = folder / "sys" / "class" / "drm" / node
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.symlink_to(card / "drm" / node)
    (folder / "dev" / "dri").mkdir(parents=True)
    for node in nodes:
        (folder / "dev" / "dri" / node).touch()


B580, UHD_630 = ("0x8086", "0xe20b"), ("0x8086", "0x3e92")
RTX, RADEON = ("0x10de", "0x2684"), ("0x1002", "0x744c")


@pytest.mark.parametrize(
    ("gpus", "nodes", "changes", "codes"),
    [
        ({}, ["dxg"], {"kernel": WSL["kernel"]}, {"wsl-library"}),
        ({}, [], {"kernel": WSL["kernel"]}, {"wsl-no-gpu"}),
        ({"renderD128": B580, "renderD129": RTX}, ["renderD129"], {}, {"render-missing"}),
        ({"renderD128": B580, "renderD129": RADEON}, ["renderD128", "renderD129"], {}, {"device-unknown-to-runtime"}),
        ({"renderD128": UHD_630}, ["renderD128"], {}, {"gpu-too-old"}),
        ({"renderD128": B580}, ["renderD128"], {"given_up": WEDGED}, {"gpu-stopped"}),
        ({"renderD129": RTX}, ["renderD129"], {}, {"no-gpu"}),
    ],
    ids=["WSL 2", "WSL 1", "another maker's node handed in", "two makers", "old", "given up", "another maker's only"],
)
def test_nothing_but_the_cause_is_told(
    tmp_path: Path, gpus: Gpus, nodes: list[str], changes: dict[str, Any], codes: set[str]
) -> None:
    lay_out(tmp_path, gpus, [node for node in nodes if node != "dxg"])
    if "dxg" in nodes:
        (tmp_path / "dev" / "dxg").touch()
    seen = look(sysfs=tmp_path / "sys", dri=tmp_path / "dev" / "dri", inventory=NOTHING)
    facts = {name: getattr(seen, name) for name in ("gpus", "render_nodes", "dxg")}
    found = examine(dataclasses.replace(machine(inventory=NOTHING, **facts), **changes))
    assert {finding.code for finding in found if finding.state is not State.OK} == codes
