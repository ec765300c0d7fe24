"""The report of `my-gpu` on a simulated card that lies about its memory and computes some things wrongly."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from xpu_utils.commands import my_gpu
from xpu_utils.doctor.machine import look
from xpu_utils.hardware.attention import BACKENDS
from xpu_utils.selftest.operations import HEAD_DIMS, TOLERANCES, operations
from xpu_utils.selftest.products import FORMATS

PART = """
import sys
from xpu_utils.bench import quick
from xpu_utils.hardware import attention, parts
from xpu_utils.machine import timing
from xpu_utils.selftest import products

quick.GEMM_SIZE = attention.TOKENS = 64
timing.MOST_REPEATS = 1
products.CHECKED = products.TIMED = (32, 64, 64)
sys.exit(parts.main())
"""

REPORT = """
import argparse, dataclasses, sys
from xpu_utils.commands import my_gpu
from xpu_utils.doctor.machine import look
from xpu_utils.hardware.parts import PARTS

del PARTS["bench"]  # which has a test of its own
for name, part in PARTS.items():  # however busy the machine is
    PARTS[name] = dataclasses.replace(part, limit_seconds=600)

config, part = sys.argv[1:]

def start(device, name):
    return [sys.executable, "-m", "tests.xpu_sim", "--config", config, "--", part, device, name]

parser = argparse.ArgumentParser()
my_gpu.add_parser(parser.add_subparsers())
code, text = my_gpu.run(parser.parse_args(["my-gpu", "--fill"]), look=look, start=start)
print(text)
sys.exit(code)
"""

LYING = {"total_bytes": 1 << 30, "memory_info": "frozen"}
FAULTS = [
    {"operator": "*softmax*", "kind": "error", "message": "cannot open /home/anna/.cache/neo", "times": None},
    {"operator": "aten::_scaled_mm*", "kind": "wrong_result", "times": None},
    {"operator": "aten::__rshift__*", "kind": "error", "message": "no kernel", "times": None},
]


def test_a_card_that_lies_and_computes_wrongly_is_reported_as_it_is(tmp_path: Path) -> None:
    report, text = reported(tmp_path, {"devices": [LYING], "faults": FAULTS})
    assert "anna" not in json.dumps(report) + text
    (parts,) = report["parts"].values()
    assert [name for name, part in parts.items() if "ended" in part] == []
    assert {name: len(part["found"]) for name, part in parts.items()} == {
        "self-test": len(operations()) * len(TOLERANCES),
        "memory": 5,
        "attention": len(HEAD_DIMS) * len(BACKENDS),
        "formats": len(FORMATS),
        "out of memory": 1,
        "fill": 1,
    }
    wrong = {name: [entry for entry in part["found"] if entry["wrong"]] for name, part in parts.items()}
    assert {entry["name"] for entry in wrong["self-test"]} == {"softmax"}
    assert "softmax in fp16: cannot open <path>" in text
    assert {entry["source"] for entry in wrong["memory"]} == {"torch"}, "the others, and what is believed, are right"
    ways = {entry["format"]: entry["way"] for entry in parts["formats"]["found"]}
    assert (ways["fp8_e4m3"], ways["4 bits"]) == ("emulated", "refused")
    assert "fp8_e4m3 emulated (its own product is wrong" in text
    for name in ("out of memory", "fill"):
        (entry,) = parts[name]["found"]
        assert (entry["kind"], entry["works_after"]) == ("out of memory", True)
    assert 0 < parts["fill"]["found"][0]["granted_bytes"] <= LYING["total_bytes"]


def test_main_memory_is_not_filled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    my_gpu.add_parser(parser.add_subparsers())
    code, text = my_gpu.run(parser.parse_args(["my-gpu", "--device", "cpu", "--fill"]), look=look)
    assert (code, text.startswith("my-gpu: --fill fills a card's memory")) == (2, True)


def reported(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The file, and what is printed."""
    files = {"config.json": json.dumps(config), "part.py": PART, "report.py": REPORT}
    for name, content in files.items():
        (folder / name).write_text(content)
    launcher = [sys.executable, "-m", "tests.xpu_sim", "--config", "config.json", "--", "report.py"]
    done = subprocess.run(
        [*launcher, "config.json", "part.py"],
        cwd=folder,
        env=host_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((folder / "xpu-hardware.json").read_text()), done.stdout
