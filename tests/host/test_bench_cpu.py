"""The CPU benchmark from end to end, on its smallest shape: what it measures, not how fast it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.cpu_turns import BEST, MEASURES, OURS, STOCK
from tests.harness.hosts import ROOT

pytestmark = pytest.mark.matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one run has left its figures and its chart."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "tests.bench", "cpu", "--shape", "tiny", "--rounds", "1", "--threads", "1"]
    command += ["--json", str(folder / "figures.json"), "--chart", str(folder / "chart.svg")]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Any:
    return json.loads((folder / "figures.json").read_text(encoding="utf-8"))


def test_every_variant_has_every_measure(report: Any) -> None:
    variants = report["shapes"]["tiny"]["variants"]
    assert {STOCK.name, BEST.name, OURS.name} <= set(variants)
    for figures in variants.values():
        assert set(figures) == set(MEASURES)
        assert all(figure["median"] > 0 for figure in figures.values())


def test_the_report_says_what_it_was_measured_on(report: Any) -> None:
    assert {"cpu", "instructions", "torch", "comfyui", "threads", "load_average", "masks"} <= set(report["machine"])
    assert report["shapes"]["tiny"]["work"]["step_tflop"] > 0


def test_a_call_in_our_format_is_close_to_fp32(report: Any) -> None:
    ours = report["shapes"]["tiny"]["calls"][OURS.name]
    assert ours["error"] < 2e-2
    assert ours["decode_psnr_db"] > 40


def test_a_chart_is_drawn(folder: Path) -> None:
    assert "tiny s/step: XPU Nodes" in (folder / "chart.svg").read_text(encoding="utf-8")
