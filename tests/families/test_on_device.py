"""The families of `make my-gpu`, on a simulated card that computes one kind of layer wrongly."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.harness.hosts import host_environment, host_path
from xpu_utils.commands.my_gpu import REPORT_FILE

from .on_device import SHARES, add_families

ONE = "import sys\nfrom tests.families.on_device import measure\nmeasure(*sys.argv[1:])\n"


def test_a_family_is_measured_on_each_device_and_one_that_is_far_from_stock_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in host_environment().items():
        monkeypatch.setenv(name, value)
    Path("one.py").write_text(ONE)
    fault = {"operator": "*convolution*", "kind": "wrong_result", "device": 1, "times": None}
    Path("config.json").write_text(json.dumps({"devices": ["arc-b580", "arc-b580"], "faults": [fault]}))
    REPORT_FILE.write_text(json.dumps({"parts": {"xpu:0": {}, "xpu:1": {}}}))

    def start(device: str, name: str) -> list[str]:
        if name != "SD15":
            return [sys.executable, "-c", "raise SystemExit(3)"]
        launcher = [sys.executable, "-m", "tests.xpu_sim", "--config", "config.json", "--", "one.py"]
        return [*launcher, str(host_path()), device, name]

    add_families(["SD15", "Unheard of"], start=start)
    parts = json.loads(REPORT_FILE.read_text())["parts"]
    right, unheard = parts["xpu:0"]["families"]["found"]
    assert (right["family"], set(right["distances"]), right["wrong"]) == ("SD15", {*SHARES}, "")
    assert "ended by code" in unheard["wrong"]
    wrong, _ = parts["xpu:1"]["families"]["found"]
    assert wrong["wrong"] == "far from stock's with all and 10% of the weights there"
    assert "xpu:0, families: 1 of 2 as they should be" in capsys.readouterr().out
