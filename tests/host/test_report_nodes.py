"""The nodes that report, on a real server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.harness.client import Result
from tests.harness.hosts import host_environment
from tests.harness.server import Server
from tests.harness.workflows import REPORT, Workflow, node, text_to_image, with_our_nodes
from xpu_utils.commands import doctor
from xpu_utils.workers.setup import Setup

from .conftest import dumped, run_ok


def test_the_doctor_node_answers_with_findings(server: Server) -> None:
    result = run_ok(server, {"doctor": node("XPUDoctor", run_kernels=True, scan_packs=True)})
    (text,) = result.outputs["doctor"]["text"]
    assert re.search("PyTorch is a (CPU|CUDA) build", text), "it says which build is not the XPU one"
    assert "test-pack insists on CUDA in 1 place (insists.py:9 model.cuda())" in text
    assert "Kernels run on cpu" in text
    assert "xpu-nodes insists on CUDA" not in text
    assert progress(result, "doctor") == [(1, 3), (2, 3), (3, 3)]


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


@pytest.mark.parametrize(
    "graph", [{"long": node("XPUBenchmark")}, {"long": node("XPUDoctor", run_kernels=True, scan_packs=False)}]
)
def test_the_stop_button_ends_what_takes_long(server: Server, graph: Workflow) -> None:
    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["value"] == 1:
            server.client.post("/interrupt", {})

    result = server.client.run(graph, on_event=stop)
    assert result.interrupted
    assert progress(result, "long")[-1][0] < progress(result, "long")[-1][1]


def progress(result: Result, node_id: str) -> list[tuple[int, int]]:
    """(value, most) of a node's progress bar, as it went."""
    told = [data for _, kind, data in result.events if kind == "progress" and data.get("node") == node_id]
    return [(data["value"], data["max"]) for data in told]


def test_the_doctor_node_lists_the_devices_and_the_changes_to_comfyui(server: Server) -> None:
    (text,) = run_ok(server, {"info": REPORT}).outputs["info"]["text"]
    assert re.search(r"^cpu: ", text, re.MULTILINE), text
    assert "Change to ComfyUI, free memory: " in text


def test_a_workflow_with_the_device_info_of_old_gets_the_doctor_where_comfyui_replaces_nodes(
    server: Server, host: Path
) -> None:
    old = {"info": node("XPUDeviceInfo"), "show": node("PreviewAny", source=["info", 0])}
    result = server.client.run({name: {**entry, "_meta": {"title": name}} for name, entry in old.items()})
    if (host / "app" / "node_replace_manager.py").is_file():
        assert "cpu: " in result.outputs["show"]["text"][0]
    else:
        assert "XPUDeviceInfo" in result.message


def test_free_memory_passes_its_input_through_and_what_follows_is_right(server: Server) -> None:
    graph = with_our_nodes(text_to_image(seed=41), device="cpu", precision="fp32")
    expected = dumped(server, graph, ["decode", 0], "kept")
    graph["free"] = node("XPUFreeMemory", anything=["sampler", 0])
    graph["decode"]["inputs"]["samples"] = ["free", 0]
    assert torch.equal(dumped(server, graph, ["decode", 0], "freed"), expected)


def test_a_loader_says_what_the_size_in_its_prompt_needs(server: Server, host: Path) -> None:
    graph = {
        "model": node("XPULoadDiffusionModel", unet_name="wan-tiny.safetensors", weight_dtype="default", device="cpu"),
        "width": node("PrimitiveInt", value=832),
        "latent": node("EmptyHunyuanLatentVideo", width=["width", 0], height=480, length=81, batch_size=1),
        "smaller": node("EmptyLatentImage", width=640, height=480, batch_size=2),
        "unused": node("EmptyLatentImage", width=4096, height=4096, batch_size=1),
        "nobody's": node("LatentUpscaleBy", samples=["unused", 0], upscale_method="bicubic", scale_by=8.0),
        "absurd": node("EmptyLatentImage", width=10**400, height=10**400, batch_size=1),
        "nor this": node("RepeatLatentBatch", samples=["absurd", 0], amount=1),
        **{f"show-{name}": node("PreviewAny", source=[name, 0]) for name in ("model", "latent", "smaller")},
    }
    (text,) = run_ok(server, graph).outputs["model"]["text"]
    in_time = "temporal_downscale_ratio" in (host / "comfy" / "latent_formats.py").read_text(encoding="utf-8")
    frames = "81 frames" if in_time else "one frame"
    assert f"with a step at 832x480, {frames}, the largest that this prompt asks for in numbers" in text
    graph["scaled"] = node("LatentUpscaleBy", samples=["smaller", 0], upscale_method="bicubic", scale_by=8.0)
    graph["show-scaled"] = node("PreviewAny", source=["scaled", 0])
    graph["model"]["inputs"]["precision"] = "fp32"  # another load
    (text,) = run_ok(server, graph).outputs["model"]["text"]
    assert "with a step at 5120x3840, one frame, 2 at a time" in text


def test_the_doctors_command_asks_comfyui_what_a_size_needs(
    host: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", host_environment()["PYTHONPATH"])
    work = doctor._work(models / "diffusion_models" / "wan-tiny.safetensors", "832x480", Setup(str(host)))
    assert work["work_of"] == "with a step at 832x480, one frame"
    with pytest.raises(ValueError, match="no step by size of what vae-sd15"):
        doctor._work(models / "vae" / "vae-sd15.safetensors", "832x480", Setup(str(host)))
