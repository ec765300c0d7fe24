"""Runs the checks in a process on simulated devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.harness.hosts import ROOT, host_environment

CARDS = {"devices": ["arc-b580", "arc-b580"]}


def found(host: Path, base: Path, names: Sequence[str] = (), *, jobs: int = 1) -> dict[str, Any]:
    """What was found of each family: see `worker.py`.

    Args:
        host: a ComfyUI's folder.
        base: where answers and measurements are kept.
        names: the families; all that the host has if none are named.
        jobs: so many at a time, each on one thread.

    Raises:
        subprocess.CalledProcessError: the process ended otherwise than by answering.
    """
    base.mkdir(parents=True, exist_ok=True)
    config, answers = base / "config.json", base / "answers.json"
    config.write_text(json.dumps(CARDS))
    command = [sys.executable, "-m", "tests.xpu_sim", "--config", str(config), "--", "tests/families/worker.py"]
    own = {"OMP_NUM_THREADS": "1", "XPU_NODES_CACHE_DIR": str(base / "cache"), "FAMILIES_LOG": str(base / "log.txt")}
    environment = {**host_environment(), **own}
    (base / "log.txt").write_text("")
    answers.unlink(missing_ok=True)
    subprocess.run([*command, str(host), str(answers), str(jobs), *names], cwd=ROOT, env=environment, check=True)
    return dict(json.loads(answers.read_text()))


def jobs() -> int:
    """As many as there are cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
