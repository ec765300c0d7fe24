"""Runs ComfyUI's own tests with the pack installed; one that does not pass must end the same way without the pack."""

from __future__ import annotations

import collections
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from .hosts import ROOT, SITE, host_environment, host_path
from .server import PACK_NAME, import_seconds

FOLDERS = {"tests-unit": (), "tests/execution": ("--skip-timing-checks", "-p", "patient_client")}
"""ComfyUI's suites and the options they need on a busy machine."""

Outcomes = dict[str, str]
"""Test -> passed, skipped, failure or error."""


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        host = Path(scratch) / "ComfyUI"
        shutil.copytree(host_path("0.3.75"), host)
        pack = host / "custom_nodes" / PACK_NAME
        pack.symlink_to(ROOT, target_is_directory=True)
        print(f"The pack is imported in {_imported_in(host):.1f} s by the servers that ComfyUI's tests start.")
        with_pack = {folder: _outcomes(host, folder) for folder in FOLDERS}
        pack.unlink()
        return max(_compared(host, folder, outcomes) for folder, outcomes in with_pack.items())


def _imported_in(host: Path) -> float:
    """Starts and ends a server as the tests do, which load whatever custom_nodes holds; seconds for the pack.

    Raises:
        RuntimeError: the pack was not loaded.
    """
    done = _run(host, "main.py", "--cpu", "--quick-test-for-ci")
    return import_seconds(done.stdout + done.stderr, PACK_NAME)


def _compared(host: Path, folder: str, outcomes: Outcomes) -> int:
    """1 where a test ended otherwise than without the pack, which is only asked where one did not pass."""
    differing: dict[str, tuple[str | None, str | None]] = {}
    if not outcomes or not set(outcomes.values()) <= {"passed", "skipped"}:
        without = _outcomes(host, folder)
        names = outcomes.keys() | without.keys()
        differing = {name: (outcomes.get(name), without.get(name)) for name in sorted(names)}
        differing = {name: both for name, both in differing.items() if both[0] != both[1]}
    counts = ", ".join(f"{number} {outcome}" for outcome, number in collections.Counter(outcomes.values()).items())
    print(f"ComfyUI's {folder} with the pack: {counts}; {len(differing)} tests end otherwise than without it")
    for name, (here, there) in differing.items():
        print(f"  {name}: {here} with the pack, {there} without")
    return 1 if differing or not outcomes else 0


def _outcomes(host: Path, folder: str) -> Outcomes:
    report = host / "outcomes.xml"
    report.unlink(missing_ok=True)
    options = ("-q", "-p", "no:cacheprovider", "--capture=fd", f"--junitxml={report}")
    _run(host, "-m", "pytest", *options, folder, *FOLDERS[folder])
    if not report.is_file():
        return {}
    cases = ElementTree.parse(report).iter("testcase")
    return {f"{case.get('classname')}::{case.get('name')}": _outcome(case) for case in cases}


def _outcome(case: ElementTree.Element) -> str:
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")


def _run(host: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Its tests start servers with whatever `python` is found first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**host_environment(), "PYTHONPATH": str(SITE), "PATH": path}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=host, env=environment, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
