"""device=cpu with precision=fp32 gives, bit for bit, what the stock nodes give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.harness.server import Server
from tests.harness.workflows import OURS, Workflow, node, text_to_image, with_our_nodes

from .conftest import Graph, Results, dumped, run_ok
from .graphs import (
    GRAPHS,
    controlnet,
    custom_sampler,
    image_to_image,
    image_to_image_with_mask,
    lora,
    lora_on_both,
    sd3,
    sd15,
)

CORE = {sd15, sd3}


@pytest.mark.parametrize(
    "graph", [pytest.param(graph, id=graph.__name__, marks=[pytest.mark.core] * (graph in CORE)) for graph in GRAPHS]
)
def test_our_nodes_give_the_stock_nodes_result(results: Results, graph: Graph) -> None:
    for expected, actual in zip(results(graph, None), results(graph, "fp32"), strict=True):
        assert torch.isfinite(expected).all()
        assert expected.std() > 0.01, "a constant result would equal anything"
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("graph", "plain"),
    [(lora, sd15), (lora_on_both, lora), (controlnet, sd15), (image_to_image_with_mask, image_to_image)],
    ids=lambda graph: graph.__name__,
)
def test_what_is_compared_has_an_effect(results: Results, graph: Graph, plain: Graph) -> None:
    """A LoRA, ControlNet or mask that changed nothing would be the same from any nodes."""
    assert not torch.equal(results(graph, "fp32")[0], results(plain, "fp32")[0])


@pytest.mark.core
def test_place_nodes_leave_a_stock_graph_unchanged(server: Server) -> None:
    expected = dumped(server, custom_sampler(text_to_image(), placed=False), ["decode", 0], "custom-stock")
    actual = dumped(server, custom_sampler(text_to_image(), placed=True), ["decode", 0], "custom-placed")
    assert torch.equal(actual, expected)


@pytest.mark.core
def test_the_place_node_for_any_object_leaves_a_stock_graph_unchanged(server: Server) -> None:
    stock = controlnet()
    stock["upscaler"] = node("UpscaleModelLoader", model_name="upscaler-2x.safetensors")
    stock["upscaled"] = node("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=["decode", 0])
    placed = {name: node("XPUPlace", anything=[*source], device="cpu", precision="fp32") for name, source in LOADED}
    graph = {**redirected(stock, {tuple(source): [name, 0] for name, source in LOADED}), **placed}
    result = run_ok(server, {**graph, "dump": node("TestDump", anything=["upscaled", 0], name="any-placed")})
    assert [result.outputs[name]["xpu"][0]["effective"] for name in placed] == ["cpu"] * len(placed)
    expected = dumped(server, stock, ["upscaled", 0], "any-stock")
    assert torch.equal(load_file(result.outputs["dump"]["path"][0])["value"], expected)


LOADED = tuple(
    (f"place {name} {index}", (name, index))
    for name, index in (("checkpoint", 0), ("checkpoint", 1), ("checkpoint", 2), ("control", 0), ("upscaler", 0))
)
"""Names for place nodes, and what they place: MODEL, CLIP, VAE, CONTROL_NET and UPSCALE_MODEL."""


def redirected(graph: Workflow, sources: dict[tuple[object, ...], list[object]]) -> Workflow:
    """A graph whose links from some outputs come from others."""
    return {
        name: {
            **entry,
            "inputs": {
                key: sources.get(tuple(value), value) if isinstance(value, list) else value
                for key, value in entry["inputs"].items()
            },
        }
        for name, entry in graph.items()
    }


def test_what_is_no_model_is_not_placed(server: Server) -> None:
    graph = {
        "encoded": node("PrimitiveInt", value=3),
        "placed": node("XPUPlace", anything=["encoded", 0], device="cpu"),
        "show": node("PreviewAny", source=["placed", 0]),
    }
    error = server.client.run(graph).message
    assert "mismatch" in error or "XPU Place was given int, which does not run on a device" in error


def test_clip_vision_gives_the_stock_nodes_result(server: Server) -> None:
    graph = {
        "vision": node("CLIPVisionLoader", clip_name="clip-vision-l.safetensors"),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0x884422),
        "encoded": node("CLIPVisionEncode", clip_vision=["vision", 0], image=["picture", 0], crop="center"),
    }
    expected = dumped(server, graph, ["encoded", 0], "vision-stock")
    ours = with_our_nodes(graph, device="cpu", precision="fp32")
    assert torch.equal(dumped(server, ours, ["encoded", 0], "vision-ours"), expected)


def text(loader: Workflow) -> Workflow:
    """A text through the encoder that the node "clip" loads."""
    return {**loader, "encoded": node("CLIPTextEncode", clip=["clip", 0], text="a lighthouse at dusk")}


def test_t5_gives_the_stock_nodes_result(server: Server) -> None:
    graph = text({"clip": node("CLIPLoader", clip_name="t5-base.safetensors", type="stable_audio")})
    expected = dumped(server, graph, ["encoded", 0], "t5-stock")
    assert expected.std() > 0.01
    ours = with_our_nodes(graph, device="cpu", precision="fp32")
    assert torch.equal(dumped(server, ours, ["encoded", 0], "t5-ours"), expected)


def test_text_encoders_of_two_files_give_the_stock_nodes_result(server: Server) -> None:
    """SD3's; the stock loader of three files leaves uninitialised what small files do not hold."""
    file = "clip-l.safetensors"
    stock = node("DualCLIPLoader", clip_name1=file, clip_name2=file, type="sd3")
    expected = dumped(server, text({"clip": stock}), ["encoded", 0], "two-files-stock")
    ours = node("XPULoadCLIP", clip_name=file, clip_name2=file, type="sd3", device="cpu", precision="fp32")
    assert torch.equal(dumped(server, text({"clip": ours}), ["encoded", 0], "two-files-ours"), expected)


@pytest.mark.parametrize("stock", OURS)
def test_our_node_offers_what_the_stock_node_offers(known: Any, stock: str) -> None:
    theirs = {**known[stock]["input"]["required"]}
    ours = {**known[OURS[stock]]["input"]["required"]}
    for name, entry in theirs.items():
        assert name in ours
        assert set(choices(entry)) <= set(choices(ours[name])), name


def choices(entry: list[Any]) -> list[str]:
    """What an input's combo box offers, as either generation of nodes describes it; nothing for another input."""
    if isinstance(entry[0], list):
        return entry[0]
    return entry[1].get("options", []) if entry[0] == "COMBO" else []


def test_another_seed_gives_another_result(server: Server) -> None:
    first = dumped(server, with_our_nodes(text_to_image(seed=1)), ["sampler", 0], "seed-1")
    second = dumped(server, with_our_nodes(text_to_image(seed=2)), ["sampler", 0], "seed-2")
    assert not torch.equal(first, second)
