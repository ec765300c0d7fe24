"""What docs/models.md says of templates that were run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping

from tests.harness.hosts import ROOT
from xpu_utils.doctor.comfyui import in_order

RECORD = ROOT / "docs" / "measurements" / "template_runs.json"
_INTRODUCTION = """
## ComfyUI's templates, run
The same workflows as the editor sends them, subgraphs opened, on the real server and a simulated card, with our nodes
in the places of ComfyUI's and tiny models of random weights in the places of the files; no more than two steps, 9
frames and 128 pixels a side (`make templates`). Nothing is said of pictures: that answers are right is what the rows
above are about.
"""


def section() -> str:
    """The section, from what was found on the versions that were run."""
    record: Mapping[str, Mapping[str, str]] = json.loads(RECORD.read_text(encoding="utf-8"))
    versions = sorted(record, key=in_order)
    rows = [f"| {version} | {_count(record[version])} |\n" for version in versions]
    reasons = [_reasons(version, record[version]) for version in versions]
    return "".join([_INTRODUCTION, "\n| ComfyUI | run |\n|---|---|\n", *rows, *reasons])


def _count(found: Mapping[str, str]) -> str:
    return f"{sum(not why for why in found.values())} of {len(found)}"


def _reasons(version: str, found: Mapping[str, str]) -> str:
    """The templates that do not run, by the reason."""
    names = defaultdict(list)
    for name, why in found.items():
        if why:
            names[why].append(name)
    lines = [f"- {why}: {', '.join(names[why])}\n" for why in sorted(names)]
    return f"\nNot on {version}, and why:\n\n{''.join(lines)}"
