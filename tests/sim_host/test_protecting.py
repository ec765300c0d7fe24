"""Graphs of stock nodes with the switch on: they end in the picture that they give when nothing fails."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.harness.server import Server
from tests.harness.workflows import TRIFLE, Workflow, node, text_to_image, with_stock_nodes
from tests.host.conftest import PACKS
from tests.host.graphs import controlnet, custom_sampler, lora_on_both, sd3
from tests.xpu_sim.control import Client as Simulation

from . import matrix
from .matrix import faulty_server, next_fault, picture, rungs_of, switched_on

Machine = tuple[Server, Simulation]
DEVICES = 8

_numbers = itertools.count(7)
"""Never one twice in a row: the server would answer from its cache."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Devices enough to lose one in nearly every test; what a prompt's loaders have made is kept for the next one."""
    layouts = ("sd3-tiny", "lora-sd15-tiny", "lora-clip-l", "controlnet-sd15-tiny")
    layouts += ("sd15-tiny-unet", "clip-l", "vae-sd15")
    base = tmp_path_factory.mktemp("protecting")
    with faulty_server(base, *layouts, devices=DEVICES, packs=PACKS, arguments=()) as running:
        yield running


def varied(workflow: Workflow, number: int) -> Workflow:
    """The graph with a text and a seed of its own: all but its loaders is executed after a prompt of another number."""
    inputs = workflow["noise" if "noise" in workflow else "sampler"]["inputs"]
    inputs["noise_seed" if "noise_seed" in inputs else "seed"] = number
    workflow["positive"]["inputs"]["text"] = f"a lighthouse at dusk, {number}"
    return workflow


def finished(server: Server, workflow: Workflow, number: int) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """The picture, and the rungs that were taken for it."""
    result = server.client.run(varied(workflow, number))
    assert result.error is None, result.message
    return picture(server, result), rungs_of(server, result)


def upscaled() -> Workflow:
    return with_stock_nodes(matrix.graph("euler"))


def separate_files() -> Workflow:
    """UNETLoader, CLIPLoader, VAELoader and SamplerCustomAdvanced."""
    graph = custom_sampler(text_to_image(), placed=False)
    graph["solver"]["inputs"]["sampler_name"] = "euler_ancestral"  # noise from a generator on the device
    graph["unet"] = node("UNETLoader", unet_name="sd15-tiny-unet.safetensors", weight_dtype="default")
    graph["clip"] = node("CLIPLoader", clip_name="clip-l.safetensors", type="stable_diffusion")
    graph["vae"] = node("VAELoader", vae_name="vae-sd15.safetensors")
    for name in ("guider", "sigmas"):
        graph[name]["inputs"]["model"] = ["unet", 0]
    for name in ("positive", "negative"):
        graph[name]["inputs"]["clip"] = ["clip", 0]
    graph["decode"]["inputs"]["vae"] = ["vae", 0]
    del graph["checkpoint"]
    return graph


def loras() -> Workflow:
    graph = lora_on_both()
    graph["sampler"]["inputs"]["sampler_name"] = "dpmpp_2m_sde_gpu"  # noise from a tree on the device
    return graph


def two_encoders() -> Workflow:
    """DualCLIPLoader, on a transformer."""
    graph = sd3()
    file = "clip-l.safetensors"
    graph["clip"] = node("DualCLIPLoader", clip_name1=file, clip_name2=file, type="sd3")
    for name in ("positive", "negative"):
        graph[name]["inputs"]["clip"] = ["clip", 0]
    return graph


GRAPHS = (separate_files, two_encoders, loras)
STAGES = {"positive": "aten::addmm", "decode": "aten::convolution", "upscaled": "aten::convolution"}
"""Nodes other than the sampler, and an operator of their models."""


def test_what_is_chosen_is_read_at_the_next_prompt(machine: Machine) -> None:
    server, _ = machine
    last = f"xpu:{DEVICES - 1}"
    with switched_on(server):
        assert stages(server)["sample"][0] != last
    with switched_on(server, device=last, precision="fp32"):
        assert stages(server) == dict.fromkeys(("encode text", "sample", "decode"), (last, "fp32"))
    with switched_on(server, device="cpu", precision="no such precision"):
        assert stages(server)["sample"][0] == "cpu"
    assert stages(server) == {}
    assert "the setting xpu-nodes.protect.precision is not used" in server.log_text()


def stages(server: Server, graph: Workflow | None = None) -> dict[str, tuple[str, str]]:
    """Device and format of each stage that the job log has of a prompt; nothing where nothing of it was protected."""
    result = server.client.run(graph or varied(text_to_image(), next(_numbers)))
    assert result.error is None, result.message
    jobs = {job["prompt_id"]: job for job in server.client.get("/xpu/jobs")["jobs"]}
    found = jobs.get(result.prompt_id, {"stages": ()})["stages"]
    return {stage["name"]: (stage["effective"], stage["precision"]) for stage in found}


SAMPLING = {"sampler": "aten::addmm"}


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
def test_a_stock_graph_survives(machine: Machine, graph: Callable[[], Workflow]) -> None:
    assert_faults_cost_nothing(machine, graph, SAMPLING, step=1)


def test_what_was_loaded_while_it_was_off_survives_too(machine: Machine) -> None:
    assert_faults_cost_nothing(machine, controlnet, SAMPLING, step=1, loaded_while_off=True)


def test_what_is_not_sampling_survives_too(machine: Machine) -> None:
    assert_faults_cost_nothing(machine, upscaled, STAGES, step=0)


def assert_faults_cost_nothing(
    machine: Machine,
    graph: Callable[[], Workflow],
    operators: Mapping[str, str],
    *,
    step: int,
    loaded_while_off: bool = False,
) -> None:
    """Running out of memory and losing the device, at nodes where an operator fails, and then no fault: each ends in
    the picture that there is while the switch is off. Each prompt is also the one after the last fault, on the same
    objects."""
    server, _ = machine
    numbers = [next(_numbers), next(_numbers)]
    expected = [finished(server, graph(), number)[0] for number in numbers]
    assert not np.array_equal(*expected)
    if not loaded_while_off:
        server.client.run(TRIFLE)  # ComfyUI keeps what the last prompt has loaded, and nothing else
    with switched_on(server):
        for stage, operator in operators.items():
            for kind, number, right in zip(("out_of_resources", "device_lost"), numbers, expected, strict=True):
                with next_fault(machine, stage, step=step, operator=operator, kind=kind):
                    found, rungs = finished(server, graph(), number)
                assert np.array_equal(found, right), (stage, kind)
                assert len(rungs) == 1, (stage, kind)
        found, rungs = finished(server, graph(), numbers[0])
        assert np.array_equal(found, expected[0])
        assert rungs == ()
    finished(server, graph(), next(_numbers))  # with the switch off again, on what was on the lost device


def test_weights_stream_as_far_as_that_is_chosen(machine: Machine) -> None:
    server, _ = machine
    numbers = [next(_numbers), next(_numbers)]
    with switched_on(server):
        expected = [finished(server, separate_files(), number)[0] for number in numbers]
    with switched_on(server, resident="10%", locked="0%"):
        found = [finished(server, separate_files(), numbers[0])[0]]
        assert "not locked, which is slower" in hooks(server)["weight streaming"][1]
    with switched_on(server, resident="10%"):
        found += [finished(server, separate_files(), number)[0] for number in numbers]
    assert np.array_equal(found, [expected[0], *expected])
    assert "the rest streams through" in server.log_text()


def test_a_saved_file_is_the_same_byte_for_byte(machine: Machine) -> None:
    server, _ = machine
    number = next(_numbers)
    saved = [file_of(server, varied(text_to_image(), number))]
    finished(server, text_to_image(), next(_numbers))
    with switched_on(server):
        saved.append(file_of(server, varied(text_to_image(), number)))
    assert set(Image.open(io.BytesIO(saved[0])).info) == {"prompt", "workflow"}
    assert saved[1] == saved[0]


def file_of(server: Server, graph: Workflow) -> bytes:
    """The file that a prompt of the editor's saves: picture, prompt and workflow."""
    result = server.client.run(graph, workflow={"nodes": [{"id": 1, "type": "KSampler"}], "version": 0.4})
    assert result.error is None, result.message
    return server.client.image(result, "save")


def test_off_means_that_nothing_is_wrapped(machine: Machine) -> None:
    server, _ = machine
    before, known = replaced(server), described(server)
    assert not any("CFGGuider" in name or "PromptExecutor" in name for name in before)
    with switched_on(server):
        during = replaced(server)
        assert described(server) == known
    assert {"CFGGuider.sample", "VAE.decode", "CLIP.encode_from_tokens", "PromptExecutor.execute"} < set(during)
    replaced(server)  # the prompt at which it is found to be off
    assert replaced(server) == before
    assert hooks(server)["protection"][0] == "stood down"


def described(server: Server) -> dict[str, Any]:
    """What ComfyUI says of its nodes, but for those that list folders in no order of their own."""
    return {name: info for name, info in server.client.get("/object_info").items() if "FromFolder" not in name}


def replaced(server: Server) -> list[str]:
    """ComfyUI's functions that are ours now."""
    result = server.client.run({"look": node("TestReplaced", number=next(_numbers))})
    assert result.error is None, result.message
    return list(result.outputs["look"]["replaced"])


def hooks(server: Server) -> dict[str, tuple[str, str]]:
    """State and reason of each hook."""
    return {hook["name"]: (hook["state"], hook["reason"]) for hook in server.client.get("/xpu/hooks")["hooks"]}


def test_a_node_that_is_named_is_left_alone(machine: Machine) -> None:
    server, _ = machine
    with switched_on(server, exempt="KSampler, no such node"):
        assert set(stages(server)) == {"encode text", "decode"}
    with switched_on(server, exempt="decode"):
        assert set(stages(server)) == {"encode text", "sample"}


@pytest.mark.parametrize("named", ["12", "12:sampler", "TestSampling", "KSampler"])
def test_so_is_what_a_subgraph_holds_and_what_a_node_makes_as_it_runs(machine: Machine, named: str) -> None:
    """ComfyUI's id of a subgraph's node begins with the subgraph's."""
    server, _ = machine
    graph = varied(text_to_image(), next(_numbers))
    graph["12:sampler"] = graph.pop("sampler") | {"class_type": "TestSampling"}
    graph["decode"]["inputs"]["samples"] = ["12:sampler", 0]
    with switched_on(server, exempt=named):
        assert set(stages(server, graph)) == {"encode text", "decode"}


def test_a_hook_that_is_named_is_left_out(machine: Machine) -> None:
    server, _ = machine
    with switched_on(server, hooks="no such hook, protected VAEs"):
        assert set(stages(server)) == {"encode text", "sample"}
        assert hooks(server)["protected VAEs"] == ("stood down", "left out by ComfyUI's settings")
        state, reason = hooks(server)["no such hook"]
        assert (state, reason.split(", ")[0]) == (
            "unknown",
            "the setting xpu-nodes.protect.hooks names no change of this pack",
        )
    with switched_on(server):
        assert "decode" in stages(server)
        assert "no such hook" not in hooks(server)
