"""Our nodes offer what the stock ones do, and check what they are given, by hand or through a link."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.harness.server import Server
from tests.harness.workflows import OURS, Workflow, node, text_to_image, with_our_nodes

from .conftest import dumped, run_ok
from .test_bad_input import assert_one_sentence

STOCK_LOADERS = [stock for stock in OURS if stock.endswith(("Loader", "LoaderSimple"))]
NOT_OURS = {"CLIPLoader": {"device"}}
"""Inputs that our device input replaces."""


def inputs_of(info: dict[str, Any]) -> dict[str, Any]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def options_of(entry: list[Any]) -> list[str]:
    """A combo box's options, in the form of old and of new nodes."""
    return entry[0] if isinstance(entry[0], list) else entry[1]["options"]


@pytest.mark.core
@pytest.mark.parametrize("stock", STOCK_LOADERS)
def test_a_loader_has_the_stock_loader_s_inputs_and_choices(known: Any, stock: str) -> None:
    ours = inputs_of(known[OURS[stock]])
    for name, entry in inputs_of(known[stock]).items():
        if name not in NOT_OURS.get(stock, set()):
            assert set(options_of(entry)) <= set(options_of(ours[name]))


@pytest.mark.core
def test_the_text_encoder_loader_knows_the_families_of_two_files(known: Any) -> None:
    ours = options_of(inputs_of(known["XPULoadCLIP"])["type"])
    assert set(options_of(inputs_of(known["DualCLIPLoader"])["type"])) <= set(ours)
    assert len(ours) == len(set(ours))


def round_trip(vae: str) -> Workflow:
    """A picture encoded and decoded by stock nodes."""
    return {
        "vae": node("VAELoader", vae_name=vae),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0x884422),
        "encode": node("VAEEncode", pixels=["picture", 0], vae=["vae", 0]),
        "decode": node("VAEDecode", samples=["encode", 0], vae=["vae", 0]),
    }


@pytest.mark.parametrize("vae", ["taesd", "pixel_space"])
def test_a_vae_that_is_no_file_gives_the_stock_nodes_result(server: Server, vae: str) -> None:
    stock = round_trip(vae)
    ours = with_our_nodes(stock, device="cpu", precision="fp32")
    for source in ("encode", "decode"):
        expected = dumped(server, stock, [source, 0], f"{vae}-stock-{source}")
        assert torch.equal(dumped(server, ours, [source, 0], f"{vae}-ours-{source}"), expected)


def linked(**choices: str) -> Workflow:
    """Our text-to-image graph, with these inputs of the sampler linked to another node's output."""
    graph = with_our_nodes(text_to_image(), device="cpu", precision="fp32")
    for name, text in choices.items():
        graph[name] = node("TestChoice", text=text)
        graph["sampler"]["inputs"][name] = [name, 0]
    return graph


@pytest.mark.core
def test_choices_may_come_through_links(server: Server) -> None:
    expected = dumped(server, linked(), ["sampler", 0], "choices-set")
    graph = linked(device="cpu", precision="fp32", sampler_name="euler", scheduler="normal")
    graph["resident"] = node("TestChoice", text="auto")
    graph["checkpoint"]["inputs"]["resident"] = ["resident", 0]
    assert torch.equal(dumped(server, graph, ["sampler", 0], "choices-linked"), expected)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("device", "gpu one", "'gpu one' is not a device name"),
        ("precision", "fp8", "precision: fp8 is not offered, use one of auto, fp32, bf16, fp16, int8."),
        ("sampler_name", "best", "sampler_name: best is not offered"),
        ("scheduler", "best", "scheduler: best is not offered"),
    ],
)
def test_a_linked_choice_that_is_not_offered_is_refused_when_it_runs(
    server: Server, name: str, text: str, says: str
) -> None:
    assert_one_sentence(server.client.run(linked(**{name: text})), says)


@pytest.mark.parametrize(
    ("loader", "inputs", "says"),
    [
        ("XPULoadCLIP", {"clip_name": "clip-l.safetensors", "type": "sdlx"}, "type: sdlx is not offered"),
        (
            "XPULoadDiffusionModel",
            {"unet_name": "sd15-tiny-unet.safetensors", "weight_dtype": "fp4"},
            "weight_dtype: fp4 is not offered, use one of default, fp8_e4m3fn, fp8_e4m3fn_fast, fp8_e5m2.",
        ),
    ],
)
def test_a_loader_s_choice_that_is_not_offered_is_refused_before_anything_runs(
    server: Server, loader: str, inputs: dict[str, str], says: str
) -> None:
    graph = {
        "load": node(loader, **inputs, device="auto", precision="auto"),
        "show": node("PreviewAny", source=["load", 0]),
    }
    result = server.client.run(graph)
    assert result.prompt_id == "", "the prompt was queued"
    assert says in json.dumps(result.error)


def test_a_clip_vision_model_says_that_it_computes_in_fp32(server: Server) -> None:
    graph = {
        "load": node("XPULoadCLIPVision", clip_name="clip-vision-l.safetensors", device="cpu", precision="bf16"),
        "show": node("PreviewAny", source=["load", 0]),
    }
    (stage,) = run_ok(server, graph).outputs["load"]["xpu"]
    assert stage["precision"] == "fp32"
    assert stage["reason"] == "a CLIP vision model computes in fp32 on cpu, not in bf16"


def test_memory_is_freed_again_when_nothing_else_changed(server: Server) -> None:
    graph = {
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "free": node("XPUFreeMemory", anything=["picture", 0]),
        "show": node("PreviewImage", images=["free", 0]),
    }
    for _ in range(2):
        assert "MiB freed" in run_ok(server, graph).outputs["free"]["text"][0]


def test_the_controlnet_bridge_is_listed(server: Server) -> None:
    graph = {
        "load": node(
            "XPULoadControlNet", control_net_name="controlnet-sd15-tiny.safetensors", device="cpu", precision="auto"
        ),
        "show": node("PreviewAny", source=["load", 0]),
    }
    run_ok(server, graph)
    hooks = {hook["name"]: hook for hook in server.client.get("/xpu/hooks")["hooks"]}
    assert hooks["ControlNet bridge"]["state"] == "applied"
