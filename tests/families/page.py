"""docs/models.md: what holds of each family, by version of ComfyUI."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.harness import swapped
from tests.harness.hosts import ROOT
from tests.templates import page as templates

from .listing import NAMES, UNCHECKED
from .words import CHECKS

RECORDS = ROOT / "docs" / "measurements" / "models"
PAGE = ROOT / "docs" / "models.md"

Record = Mapping[str, Any]
"""What was found, by name and check, and which described families a version lacks: see `worker.py`."""
Records = Mapping[str, Record]
"""By version of ComfyUI."""

_INTRODUCTION = """# Models
Every family of models that ComfyUI knows, at a tiny size with random weights, through this pack on simulated Intel
cards, which show placement, limits, faults and recovery, not Intel's drivers. Written by `make families`; do not edit.

Checked, in fp32 and bit for bit what stock ComfyUI answers unless it says otherwise; of VAEs what they decode and
encode, of ControlNets the latent that a tiny model makes with them:
"""


def write_page() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page, from what is kept of families and of ComfyUI's templates."""
    records = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in RECORDS.glob("*.json")}
    return _families(records) + swapped.section() + templates.section()


def _families(records: Records) -> str:
    versions = sorted(records, key=_order)
    checked = "\n".join(f"- **{name}**: {words}" for name, words in CHECKS.items())
    sections = "\n\n".join(_section(records, versions, title) for title in NAMES)
    return f"{_INTRODUCTION}{checked}\n\n{sections}\n"


def _section(records: Records, versions: Sequence[str], title: str) -> str:
    run = {name for record in records.values() for name in (*record["found"], *record["absent"])}
    names = sorted(run & {*NAMES[title]}, key=str.lower)
    unchecked = [f"- {name}: {why}" for name, why in UNCHECKED.get(title, {}).items()]
    told = "\n".join(["", "", "ComfyUI has these as well, which are not checked:", *unchecked]) if unchecked else ""
    return f"## {title}\n{_table(records, versions, names)}{told}"


def _table(records: Records, versions: Sequence[str], names: Sequence[str]) -> str:
    head = ["", *(f"ComfyUI {version}" for version in versions)]
    counts = ["all checks hold", *(_whole(records[version], names) for version in versions)]
    rows = [[name, *(_cell(records[version], name) for version in versions)] for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), counts, *rows])


def _order(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _whole(record: Record, names: Sequence[str]) -> str:
    rows = [record["found"][name] for name in names if name in record["found"]]
    return f"{sum(not any(row.values()) for row in rows)} of {len(rows)}"


def _cell(record: Record, name: str) -> str:
    if name in record["absent"]:
        return "not in it"
    if name not in record["found"]:
        return "not run"
    missed = [check for check, why in record["found"][name].items() if why]
    return f"all but {', '.join(missed)}" if missed else "all"
