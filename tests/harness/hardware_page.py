"""docs/hardware.md: a row for each card and driver, from the reports that people sent.

`make hardware-page`, after a report was put into docs/measurements/hardware.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from xpu_utils.selftest.products import Way

from .hosts import ROOT

REPORTS = ROOT / "docs" / "measurements" / "hardware"
PAGE = ROOT / "docs" / "hardware.md"

LINUX, WINDOWS = ("i915", "xe"), "Windows"
CARDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("Arc A310", "Arc A380", "Arc A580", "Arc A750", "Arc A770"), (*LINUX, WINDOWS)),
    **dict.fromkeys(("Arc B570", "Arc B580", "Arc Pro B50", "Arc Pro B60", "Arc Pro B70"), ("xe", WINDOWS)),
    **dict.fromkeys(("Arc 130T", "Arc 140T"), (*LINUX, WINDOWS)),
    **dict.fromkeys(("Arc 130V", "Arc 140V", "Arc B390"), ("xe", WINDOWS)),
    "Iris Xe": (*LINUX, WINDOWS),
    **dict.fromkeys(("Data Center Max 1100", "Data Center Max 1550"), ("i915", "xe")),
}
"""What people have, and the drivers that it runs on."""
UNREPORTED = "not yet reported"
HEAD = ("card", "driver", "PyTorch", "self-test", "memory", "attention", "formats native", "out of memory", "families")

_TEXT = """# Cards
What this pack does on real cards, by those who own one. Nobody who writes it has an Intel GPU: until somebody sends a
report, a row says so.

```sh
python custom_nodes/xpu-nodes my-gpu
```
takes some minutes and writes `xpu-hardware.json` into the current folder: the doctor's findings, the self-test, the
quick benchmark, every source of free memory against an allocation of known size, PyTorch's ways of attention, the
formats of weights, and one request for more memory than there is. Each part runs in a process of its own with a time
limit.
`--device xpu:1` takes that one only. `--fill` also fills the memory until the driver refuses, which may stop a
machine whose driver takes main memory with it; without it nothing is filled.

From a clone of this repository, with the XPU build of PyTorch in its `.venv`, `COMFYUI_PATH=... make my-gpu` also has a
dozen families of models compute there, tiny, with all of the weights on the card and with a tenth.

The file holds no names, paths or serial numbers; look through it, then drag it into
[a report of a device](https://github.com/xpu-nodes/xpu-nodes/issues/new?template=device.yml).
"""


def page(reports: Iterable[Mapping[str, Any]]) -> str:
    """The page with what was reported."""
    known = list(reports)
    rows = [list(HEAD), ["---"] * len(HEAD)]
    for card, drivers in CARDS.items():
        for driver in drivers:
            rows += list(_rows(card, driver, known)) or [[card, driver, UNREPORTED, *[""] * (len(HEAD) - 3)]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{_TEXT}\n{table}\n"


def _rows(card: str, driver: str, reports: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Of a card under a driver, as reported."""
    name = re.compile(rf"\b{re.escape(card.split(' ', 1)[1])}\b")
    for report in reports:
        for device in report["devices"]:
            parts = report["parts"].get(device["id"])
            if parts is not None and name.search(device["name"]) and driver in _drivers(report):
                yield [card, f"{driver} {device['driver_version']}", report["torch"]["version"], *_cells(parts)]


def _drivers(report: Mapping[str, Any]) -> set[str]:
    return {WINDOWS} if report["system"] == "windows" else {gpu["driver"] for gpu in report["gpus"]}


def _cells(parts: Mapping[str, Any]) -> Iterator[str]:
    for name in ("self-test", "memory", "attention"):
        yield _cell(parts[name])
    native = [entry["format"] for entry in parts["formats"]["found"] if entry["way"] == Way.NATIVE.value]
    yield ", ".join(native) or "none"
    yield _cell(parts["out of memory"])
    yield _cell(parts["families"]) if "families" in parts else "not run"


def _cell(part: Mapping[str, Any]) -> str:
    wrong = sum(bool(entry["wrong"]) for entry in part["found"])
    text = f"{wrong} of {len(part['found'])} wrong" if wrong else "right"
    return f"{text}, ended {part['ended']}" if "ended" in part else text


def reports(folder: Path = REPORTS) -> list[dict[str, Any]]:
    """Those that were sent."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]


if __name__ == "__main__":
    PAGE.write_text(page(reports()), encoding="utf-8")
