"""`pytest -p tests.harness.cpu_seconds`: the processor seconds of each test, with what its servers took, most first.

A fixture counts for the test that asked for it first. Reads /proc, so on Linux alone.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

MOST = 40
"""Tests that are listed."""

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 1
_taken: dict[str, float] = {}


def _tree_seconds() -> float:
    """Processor seconds of this process, those it has waited for, and those that run below it."""
    rows = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        rows[int(entry.parent.name)] = (int(fields[1]), sum(map(int, fields[11:15])) / _TICKS)
    below, found = {os.getpid()}, True
    while found:
        found = {pid for pid, (parent, _) in rows.items() if parent in below} - below
        below |= found
    return sum(rows[pid][1] for pid in below if pid in rows)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    began = _tree_seconds()
    result = yield
    _taken[item.nodeid] = _tree_seconds() - began
    return result


def pytest_terminal_summary(terminalreporter: Any) -> None:
    files: dict[str, float] = {}
    for name, seconds in _taken.items():
        files[name.partition("::")[0]] = files.get(name.partition("::")[0], 0.0) + seconds
    for counted in (files, _taken):
        terminalreporter.section(f"processor seconds, {sum(counted.values()):.0f} in all")
        for name, seconds in sorted(counted.items(), key=lambda entry: -entry[1])[:MOST]:
            terminalreporter.write_line(f"{seconds:7.1f}  {name}")
