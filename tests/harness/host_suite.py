"""Runs ComfyUI's own tests with the pack and its switch on; one that does not pass must end the same way without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .hosts import ROOT, SITE, host_environment, host_path
from .outcomes import FINE, Outcomes, Row, run_tests, table
from .server import PACK_NAME, free_port, import_seconds

FOLDERS = {"tests-unit": (), "tests/execution": ("--skip-timing-checks", "--port={port}")}
"""ComfyUI's suites and the options they need on a busy machine, where another server may have their own port."""

_OF_THE_USER = {".git", ".venv", "venv", "custom_nodes", "models", "input", "output", "temp", "user"}
"""What a checkout holds beside ComfyUI itself; its tests bring what they read of it."""


def main() -> int:
    rows = list(compared(host_path()))
    print(table(rows))
    return int(not all(row.as_expected for row in rows))


def compared(host: Path) -> Iterator[Row]:
    """Runs the suites of a copy of a ComfyUI with the pack, and without it those in which a test did not pass.

    Raises:
        RuntimeError: the servers that its tests start do not load the pack.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "ComfyUI"
        shutil.copytree(host, copy, ignore=lambda folder, _: _OF_THE_USER if Path(folder) == host else ())
        for name in ("custom_nodes", "models", "input", "output"):
            (copy / name).mkdir()
        pack = copy / "custom_nodes" / PACK_NAME
        for folder in FOLDERS:
            pack.symlink_to(ROOT, target_is_directory=True)
            _check_loaded(copy)
            outcomes = _outcomes(copy, folder)
            pack.unlink()
            unclear = not outcomes or not FINE.issuperset(outcomes.values())
            without = _outcomes(copy, folder) if unclear else outcomes
            yield Row(f"ComfyUI's {folder}", outcomes, tuple(_differing(outcomes, without)))


def _differing(outcomes: Outcomes, without: Outcomes) -> Iterator[str]:
    for name in sorted(outcomes.keys() | without.keys()):
        here, there = (ended.get(name, "missing") for ended in (outcomes, without))
        if here != there:
            yield f"{name}: {here} with the pack, {there} without"


def _check_loaded(host: Path) -> None:
    """Starts and ends a server as the tests do, which load whatever custom_nodes holds."""
    command = [sys.executable, "main.py", "--cpu", "--quick-test-for-ci"]
    done = subprocess.run(command, cwd=host, env=_environment(), capture_output=True, text=True, check=False)
    import_seconds(done.stdout + done.stderr, PACK_NAME)


def _outcomes(host: Path, folder: str) -> Outcomes:
    options = (
        "-p",
        "patient_client",
        "--capture=fd",
        folder,
        *(option.format(port=free_port()) for option in FOLDERS[folder]),
    )
    return run_tests(*options, cwd=host, environment=_environment(), report=host / "outcomes.xml")


def _environment() -> dict[str, str]:
    # Its tests start servers with whatever `python` is found first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**host_environment(), "PYTHONPATH": str(SITE), "PATH": path, "XPU_NODES_PROTECT": "on"}


if __name__ == "__main__":
    sys.exit(main())
