"""Rows of a run that takes hours: kept one by one, so that it goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from tests.sim_host.matrix import Case

Row = dict[str, Any]
Run = Callable[[Sequence[Case]], Iterable[tuple[Case, Row]]]


def all_rows(file: Path, cases: Sequence[Case], run: Run, *, good: Callable[[Row], bool]) -> list[Row]:
    """The rows of all cases, of which those are run that the file does not have, or not as they should be."""
    kept = {case: row for case, row in kept_rows(file).items() if good(row)}
    with file.open("w", encoding="utf-8") as stream:
        for entry in kept.items():
            _write(stream, entry)
        for case, row in run([case for case in cases if str(case) not in kept]):
            kept[str(case)] = row
            _write(stream, (str(case), row))
    return [kept[str(case)] for case in cases]


def _write(stream: TextIO, entry: tuple[str, Row]) -> None:
    stream.write(json.dumps(entry) + "\n")
    stream.flush()


def kept_rows(file: Path) -> dict[str, Row]:
    """What a run that was interrupted has left, by its cases' names; of one that was run again the last."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return dict(json.loads(line) for line in lines if line.endswith("\n"))  # else it was interrupted there
