"""How the tests of a pytest run ended, and several runs as a table."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
from pathlib import Path

Outcomes = dict[str, str]
"""Test -> passed, skipped, failure or error."""

FINE = frozenset({"passed", "skipped"})


@dataclasses.dataclass(frozen=True)
class Row:
    """How one suite ended."""

    suite: str
    outcomes: Outcomes
    differing: tuple[str, ...]
    """The tests that a reader has to look at, each with what became of it."""

    @property
    def as_expected(self) -> bool:
        return bool(self.outcomes) and not self.differing

    @property
    def cells(self) -> tuple[str, ...]:
        passed = sum(outcome == "passed" for outcome in self.outcomes.values())
        failed = sum(outcome not in FINE for outcome in self.outcomes.values())
        differs = "<br>".join(self.differing) or ("nothing" if self.outcomes else "it did not run")
        return (self.suite, str(passed), str(failed), differs)


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown."""
    head = (("suite", "passed", "failed", "what differs"), ("---",) * 4)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (*head, *(row.cells for row in rows)))


def run_tests(*arguments: str, cwd: Path, environment: Mapping[str, str], report: Path) -> Outcomes:
    """Runs pytest in a process of its own; no outcomes where it could not even collect its tests.

    Args:
        report: where its XML report goes, and beside it what it printed, as .log.
    """
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    with report.with_suffix(".log").open("wb") as log:
        subprocess.run(command, cwd=cwd, env=dict(environment), stdout=log, stderr=subprocess.STDOUT, check=False)
    if not report.is_file():
        return {}
    cases = ElementTree.parse(report).iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}": _outcome(case) for case in cases}


def _outcome(case: ElementTree.Element) -> str:
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
