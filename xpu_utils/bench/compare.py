"""Measurements as table, as JSON file, and two files side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from .measure import Measurement

FORMAT = "xpu-nodes bench 2"

_SCALES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 1.0))


def as_json(measurements: Iterable[Measurement]) -> str:
    """The file that `load` reads."""
    entries = [dataclasses.asdict(entry) for entry in measurements]
    return json.dumps({"format": FORMAT, "torch": str(torch.__version__), "measurements": entries}, indent=2)


def load(path: Path) -> list[Measurement]:
    """Reads a JSON file of measurements.

    Raises:
        ValueError: it is not there, or not such a file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ValueError(f"{path.name} is not of the format {FORMAT!r}, make it anew with `bench --json`.")
        return [Measurement(**entry) for entry in data["measurements"]]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} holds no measurements ({error}), make it with `bench --json`.") from error


def rate_text(rate: float | None, unit: str) -> str:
    """ "1.23 TFLOP/s"; a dash where there is none."""
    if rate is None:
        return "–"
    prefix, scale = next((entry for entry in _SCALES if rate >= entry[1]), _SCALES[-1])
    return f"{rate / scale:.3g} {prefix}{unit}"


def as_table(measurements: Sequence[Measurement]) -> str:
    """One line a measurement."""
    rows = [("device", "operation", "precision", "time", "rate", "of ceiling")]
    for entry in measurements:
        time = "–" if entry.seconds is None else f"{entry.seconds * 1e3:.2f} ms"
        ceiling = "" if entry.share is None else f"{entry.share:.0%} of {entry.ceiling_source}"
        rate = rate_text(entry.rate, entry.unit)
        rows.append((entry.device, entry.name, entry.precision, time, rate, entry.problem or ceiling))
    return aligned(rows)


def pairs(before: Sequence[Measurement], after: Sequence[Measurement]) -> list[tuple[Measurement, Measurement]]:
    """Every operation that both have, in the order of the later one."""
    earlier = {(entry.device, entry.name, entry.precision): entry for entry in before}
    found = [(earlier.get((entry.device, entry.name, entry.precision)), entry) for entry in after]
    return [(first, second) for first, second in found if first is not None]


def compare(before: Sequence[Measurement], after: Sequence[Measurement]) -> str:
    """One line for every operation that both have, with the factor by which its rate grew."""
    rows = [("device", "operation", "precision", "before", "after", "factor")]
    for first, second in pairs(before, after):
        factor = f"{second.rate / first.rate:.2f}" if second.rate and first.rate else "–"
        rates = (rate_text(first.rate, first.unit), rate_text(second.rate, second.unit))
        rows.append((second.device, second.name, second.precision, *rates, factor))
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
