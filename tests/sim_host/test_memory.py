"""Another process holds most of a simulated B580: models are placed without running out, whatever `mem_get_info` says.

The card is scaled down to 2.7 GiB, of which 1.6 are held by the other process; the model is 1.2 GiB in fp32. What the
stock host does in the same place is recorded, not asserted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import Result
from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models
from tests.harness.server import Server
from tests.harness.workflows import REPORT, Workflow, node, text_to_image, with_our_nodes
from tests.xpu_sim.control import Client

from .conftest import SimServer
from .matrix import OUT

TOTAL_BYTES = int(2.7 * (1 << 30))
OTHERS_BYTES = int(0.6 * TOTAL_BYTES)
CARD = {
    "preset": "arc-b580",
    "total_bytes": TOTAL_BYTES,
    "other_process_bytes": OTHERS_BYTES,
    "when_full": "out_of_device_memory",
}
# A `mem_get_info` that fails comes after ones that answer, as when a driver goes wrong while it runs.
KINDS = ("works", "frozen", "zero", "raises")
FP32 = ("--force-fp32",)
SYSMAN = Path(__file__).with_name("sysman")
RESULTS = OUT / "memory.json"

Record = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    """What each set-up did with each kind of `mem_get_info`, written for docs/measurements/reliability.md."""
    ensure_models("sd15-deep-unet")
    found: Record = {}
    yield found
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    setup = {"total_bytes": TOTAL_BYTES, "others_bytes": OTHERS_BYTES, "device": "simulated Arc B580"}
    RESULTS.write_text(json.dumps({"setup": setup, "runs": found}, indent=2))


def graph(kind: str) -> Workflow:
    """A model too large for what the other process leaves, and a new text, so that the text encoder runs as well."""
    result = text_to_image(steps=1)
    result["positive"]["inputs"]["text"] = kind
    result["unet"] = node("UNETLoader", unet_name="sd15-deep-unet.safetensors", weight_dtype="default")
    result["sampler"]["inputs"]["model"] = ["unet", 0]
    return result


def run(server: Server, control: Client, kind: str, workflow: Workflow) -> Result:
    """Runs with that kind of `mem_get_info`, starting from a device that holds nothing of ours."""
    server.client.free()
    control.change_device(0, memory_info=kind)
    return server.client.run(workflow)


def outcome(result: Result) -> dict[str, Any]:
    return {"image": "save" in result.outputs, "error": result.message.strip().splitlines()[:1]}


def report(server: Server) -> str:
    return str(server.client.run({"info": REPORT}).outputs["info"]["text"][0])


def faults(server: Server, result: Result) -> list[Any]:
    jobs = {job["prompt_id"]: job for job in server.client.get("/xpu/jobs")["jobs"]}
    return list(jobs[result.prompt_id]["faults"])


def test_with_sysman_nothing_runs_out_whatever_the_driver_answers(sim_server: SimServer, record: Record) -> None:
    path = {"PYTHONPATH": f"{SYSMAN}{os.pathsep}{host_environment()['PYTHONPATH']}"}
    believed = {"works": "torch", "frozen": "sysman", "zero": "sysman", "raises": "sysman"}
    with sim_server({"devices": [CARD]}, arguments=FP32, environment=path) as (server, control):
        for kind in KINDS:
            result = run(server, control, kind, with_our_nodes(graph(kind)))
            text, met = report(server), faults(server, result)
            record.setdefault("ours", {})[kind] = {**outcome(result), "faults": len(met), "source": believed[kind]}
            assert result.error is None, result.message
            assert met == [], kind
            assert result.outputs["sampler"]["xpu"][0]["effective"] == "xpu:0"
            assert f"xpu:0: 1.1 of 2.7 GiB free (source {believed[kind]})" in text
            assert "Change to ComfyUI, free memory: on" in text
            assert "Change to ComfyUI, memory fraction: on (PyTorch may take at most 100% of xpu:0's memory" in text
        result = run(server, control, "works", graph("stock nodes"))
        record["stock nodes, our hook"] = {"works": outcome(result)}
        assert result.error is None, result.message


def test_without_any_source_that_sees_others_the_prompt_still_ends_in_an_image(
    sim_server: SimServer, record: Record
) -> None:
    with sim_server({"devices": [{**CARD, "memory_info": "raises"}]}, arguments=FP32) as (server, control):
        result = run(server, control, "raises", with_our_nodes(graph("raises")))
        met = faults(server, result)
        stage = result.outputs["sampler"]["xpu"][0] if result.error is None else {}
        record["ours, no Sysman"] = {
            "raises": {
                **outcome(result),
                "faults": len(met),
                "source": "allocator",
                "sampled_on": stage.get("effective"),
            }
        }
        assert result.error is None, result.message
        assert "(source allocator), passed over torch: " in report(server)


def test_switched_off_the_hooks_leave_the_host_alone(sim_server: SimServer) -> None:
    off = {"XPU_NODES_DISABLE": "free memory, memory fraction, weigth streaming"}
    with sim_server({"devices": [CARD]}, environment=off) as (server, _):
        (device,) = server.client.get("/system_stats")["devices"]
        assert device["vram_free"] == TOTAL_BYTES, "ComfyUI's own figure does not see the other process"
        text = report(server)
    assert "Change to ComfyUI, free memory: off (switched off by XPU_NODES_DISABLE" in text
    assert "Change to ComfyUI, memory fraction: off (switched off by XPU_NODES_DISABLE" in text
    unknown = "Change to ComfyUI, weigth streaming: there is none (XPU_NODES_DISABLE names no change of this pack"
    assert f"{unknown}, the nearest is weight streaming" in text
    assert "Change to ComfyUI, weight streaming: on when it is needed (nothing has called for it yet)" in text


@pytest.mark.matrix  # nothing of ours runs in it: for docs/measurements/reliability.md
def test_what_stock_comfyui_does_in_the_same_place_is_recorded(sim_server: SimServer, record: Record) -> None:
    with sim_server({"devices": [CARD]}, arguments=FP32, packs={}) as (server, control):
        for kind in KINDS:
            record.setdefault("stock", {})[kind] = outcome(run(server, control, kind, graph(kind)))
    assert set(record["stock"]) == set(KINDS)
