"""The self-test on a simulated B580 that computes rightly, wrongly, or not at all in some precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.hosts import ROOT, host_environment
from tests.harness.workflows import text_to_image, with_our_nodes

from .conftest import SimServer

SCRIPT = """
import dataclasses, json, torch
from tests import xpu_sim
from xpu_utils.selftest.operations import HEAD_DIMS, TOLERANCES
from xpu_utils.selftest.result import SelfTests, best_precision
from xpu_utils.machine.devices import find_devices

simulation = xpu_sim.current()

def tested(name):
    device = dataclasses.replace(find_devices().devices[0], driver_version=name)
    tests = SelfTests()
    return {
        "device": device.id,
        "precisions": [precision for precision in TOLERANCES if tests.computes(device, precision)],
        "wrong_head_dims": [size for size in HEAD_DIMS if tests.attends_wrongly(device, size, torch.bfloat16)],
        "auto": best_precision(device, tests.computes),
    }

answers = {"sound": tested("sound")}
simulation.add_fault("*scaled_dot_product*", "wrong_result", times=None)
answers["wrong attention"] = tested("wrong attention")
simulation.clear_faults()
simulation.change_device(0, has_bf16=False)
answers["no bf16"] = tested("no bf16")
simulation.add_fault("*convolution*", "device_lost")
answers["lost"] = tested("lost")
print(json.dumps(answers))
"""


def test_what_a_device_computes_wrongly_is_found(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**host_environment(), "XPU_NODES_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.xpu_sim", "--", str(script)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert answers["sound"]["precisions"] == ["fp32", "bf16", "fp16"]
    assert answers["sound"]["wrong_head_dims"] == []
    assert (answers["sound"]["device"], answers["sound"]["auto"]) == ("xpu:0", "bf16")
    assert answers["wrong attention"]["wrong_head_dims"] == [40, 64, 80, 96, 128, 160]
    assert answers["wrong attention"]["auto"] == "fp32"
    assert "bf16" not in answers["no bf16"]["precisions"]
    assert answers["no bf16"]["auto"] == "fp16"
    kept = "".join(file.read_text() for file in (tmp_path / "cache").iterdir() if '"lost"' in file.read_text())
    assert "convolution" not in kept, "a lost device is tested again another time"


def test_auto_leaves_a_format_that_the_device_computes_wrongly(sim_server: SimServer) -> None:
    # The self-test's first operation is a matrix product, in the format that ComfyUI chose.
    wrong = {"operator": "aten::mm", "kind": "wrong_result", "nth": 1, "device": 0}
    sound = {"preset": "arc-b580", "driver_version": "another"}
    with sim_server({"devices": ["arc-b580", sound], "faults": [wrong]}) as (server, simulation):
        for device, expected in (("auto", "bf16"), ("xpu:1", "fp16")):
            result = server.client.run(with_our_nodes(text_to_image(), device=device))
            assert result.error is None, result.message
            (stage,) = result.outputs["sampler"]["xpu"]
            assert stage["precision"] == expected
            assert any("computes fp16 wrongly" in note for note in stage["notes"]) == (expected == "bf16")
        assert any(simulation.statistics().faults_fired)
