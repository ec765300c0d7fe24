"""The doctor's self-test and the quick table on a simulated B580, each from its command to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from xpu_utils.selftest.operations import TOLERANCES, operations

NUMERIC = "import sys\nfrom xpu_utils.selftest.operations import main\nsys.exit(main())\n"

SELF_TEST = """
import argparse, sys
from xpu_utils.commands import doctor
from xpu_utils.doctor import probe
from xpu_utils.doctor.machine import look

config, numeric = sys.argv[1:]

def check(device, *, everything):
    # The child process needs the simulation too.
    command = [sys.executable, "-m", "tests.xpu_sim", "--config", config, "--", numeric, device, "--all"]
    return probe.run(device, everything=everything, command=command, limit_seconds=250)

parser = argparse.ArgumentParser()
doctor.add_parser(parser.add_subparsers())
arguments = parser.parse_args(["doctor", "--self-test", "--json", "--server", "127.0.0.1:9"])
code, text = doctor.run(arguments, look=look, check=check)
print(text)
sys.exit(code)
"""

BENCH = """
import sys
from xpu_utils.__main__ import main
from xpu_utils.bench import measure, quick

quick.GEMM_SIZE = 256

def once(call, device):
    call()
    return 1e-3

measure.median_seconds = once
sys.exit(main(["bench", "--json", "--device", "xpu:0"]))
"""


def simulated(folder: Path, script: str, config: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in that folder, on simulated devices."""
    (folder / "script.py").write_text(script)
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.xpu_sim", "--config", str(folder / "config.json")]
    return subprocess.run(
        [*command, "--", str(folder / "script.py"), *arguments],
        cwd=folder,
        env=host_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


WRONG = [
    {"operator": "*gelu*", "kind": "wrong_result", "times": None},
    {"operator": "*softmax*", "kind": "error", "message": "cannot open /home/anna/.cache/neo"},
]


@pytest.mark.parametrize(("faults", "code"), [([], "kernel"), (WRONG, "kernel-wrong")], ids=["right", "wrong"])
def test_the_self_test_of_a_device_ends_in_a_report(faults: list[dict[str, Any]], code: str, tmp_path: Path) -> None:
    numeric = tmp_path / "numeric_child.py"
    numeric.write_text(NUMERIC)
    config = {"devices": ["arc-b580"], "faults": faults}
    done = simulated(tmp_path, SELF_TEST, config, str(tmp_path / "config.json"), str(numeric))
    findings = [entry["code"] for entry in json.loads(done.stdout) if entry["what"].split(":")[0].endswith("xpu")]
    assert code in findings, done.stdout[-3000:] + done.stderr[-3000:]
    text = (tmp_path / "xpu-self-test.json").read_text()
    report = json.loads(text)
    assert report["devices"][0]["id"] == "xpu:0"
    results = report["numbers"]["xpu:0"]
    assert len(results) == len(operations()) * len(TOLERANCES)
    wrong = {result["name"] for result in results if not result["right"]}
    assert wrong == ({"gelu", "softmax"} if faults else set())
    assert "anna" not in text


def test_every_line_of_the_quick_table_is_measured(tmp_path: Path) -> None:
    done = simulated(tmp_path, BENCH, {"devices": ["arc-b580"]})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    measurements = json.loads(done.stdout)["measurements"]
    assert [entry["problem"] for entry in measurements if entry["problem"]] == []
    assert all(entry["rate"] > 0 for entry in measurements)
    copies = [entry["name"] for entry in measurements if entry["unit"] == "B/s"]
    assert copies == [f"copy {way}, {kind}" for kind in ("pageable", "pinned") for way in ("to device", "to host")]
