"""docs/models.md: what holds of each family, by version of ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .formats import is_format
from .others import NOT_SAMPLED
from .words import CHECKS

Records = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Version of ComfyUI -> family -> check -> why it does not hold."""

_INTRODUCTION = """# Models
Every family of models that ComfyUI knows, at a tiny size with random weights, through this pack on simulated Intel
cards, which show placement, limits, faults and recovery, not Intel's drivers. Written by `make families`; do not edit.

Checked, in fp32 and bit for bit the latent that stock ComfyUI makes unless it says otherwise:
"""


def page(records: Records) -> str:
    """The page, from the records of the versions that were run."""
    versions = sorted(records, key=_order)
    checked = "\n".join(f"- **{name}**: {words}" for name, words in CHECKS.items())
    names = sorted({name for record in records.values() for name in record}, key=str.lower)
    families = [name for name in names if not is_format(name)]
    stored = [name for name in names if is_format(name)]
    unsampled = "\n".join(f"- {name}: {why}" for name, why in NOT_SAMPLED.items())
    return (
        f"{_INTRODUCTION}{checked}\n\n"
        f"## Diffusion models\n{_table(records, versions, families)}\n\n"
        f"Of ComfyUI's list, and not sampled:\n{unsampled}\n\n"
        f"## Storage formats, of an SD3\n{_table(records, versions, stored)}\n"
    )


def _table(records: Records, versions: Sequence[str], names: Sequence[str]) -> str:
    head = ["", *(f"ComfyUI {version}" for version in versions)]
    counts = ["all checks hold", *(_whole(records[version], names) for version in versions)]
    rows = [[name, *(_cell(records[version], name) for version in versions)] for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), counts, *rows])


def _order(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _whole(record: Mapping[str, Mapping[str, str]], names: Sequence[str]) -> str:
    rows = [record[name] for name in names if name in record]
    return f"{sum(not any(row.values()) for row in rows)} of {len(rows)}"


def _cell(record: Mapping[str, Mapping[str, str]], name: str) -> str:
    if name not in record:
        return "not in it"
    missed = [check for check, why in record[name].items() if why]
    return f"all but {', '.join(missed)}" if missed else "all"
