"""The nodes that report, on a real server."""

from __future__ import annotations

import json

from tests.harness.server import Server
from tests.harness.workflows import node

from .conftest import run_ok


def test_the_doctor_node_answers_with_findings(server: Server) -> None:
    result = run_ok(server, {"doctor": node("XPUDoctor", run_kernels=True, scan_packs=True)})
    (text,) = result.outputs["doctor"]["text"]
    assert "PyTorch is a CPU build" in text
    assert "test-pack insists on CUDA in 1 place (insists.py:9 model.cuda())" in text
    assert "Kernels run on cpu" in text
    assert "xpu-nodes insists on CUDA" not in text


def test_the_benchmark_node_measures_and_gives_json_to_compare(server: Server) -> None:
    workflow = {
        "bench": node("XPUBenchmark", device="xpu:9"),
        "json": node("PreviewAny", source=["bench", 1]),
    }
    result = run_ok(server, workflow)
    (table,) = result.outputs["bench"]["text"]
    assert table.splitlines()[0].split()[:2] == ["device", "operation"]
    measurements = json.loads(result.outputs["json"]["text"][0])["measurements"]
    assert {entry["device"] for entry in measurements} == {"cpu"}
    assert all(entry["seconds"] > 0 for entry in measurements)
