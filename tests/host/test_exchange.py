"""A stock API prompt in which nothing but class names was exchanged runs; a search for the stock name finds ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import answer_in_comfyui
from tests.harness.server import Server
from tests.harness.workflows import OURS, Workflow, exchanged, node

from .conftest import dumped
from .graphs import controlnet, image_to_image, separate_files_and_advanced_sampler, upscaled

HALF_PRECISION_ERROR = 0.1
"""Of a result's spread: device and precision are `auto`, which on a CPU with bf16 instructions is bf16."""


def clip_vision() -> Workflow:
    return {
        "vision": node("CLIPVisionLoader", clip_name="clip-vision-l.safetensors"),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0x884422),
        "encoded": node("CLIPVisionEncode", clip_vision=["vision", 0], image=["picture", 0], crop="center"),
    }


def separate_files() -> Workflow:
    """As the front end exports it: with the optional input of the stock text encoder loader."""
    graph = separate_files_and_advanced_sampler()
    graph["clip"]["inputs"]["device"] = "default"
    return graph


GRAPHS: dict[Callable[[], Workflow], str] = {
    separate_files: "decode",
    controlnet: "decode",
    image_to_image: "decode",
    upscaled: "upscaled",
    clip_vision: "encoded",
}
"""Each with the node whose result is compared."""


def test_the_graphs_hold_every_stock_node_that_has_a_twin() -> None:
    assert set(OURS) <= {entry["class_type"] for graph in GRAPHS for entry in graph().values()}


@pytest.mark.parametrize(("graph", "source"), GRAPHS.items(), ids=[graph.__name__ for graph in GRAPHS])
def test_a_prompt_with_exchanged_class_names_gives_the_stock_result(
    server: Server, graph: Callable[[], Workflow], source: str
) -> None:
    expected = dumped(server, graph(), [source, 0], f"exchange-{graph.__name__}-stock")
    actual = dumped(server, exchanged(graph()), [source, 0], f"exchange-{graph.__name__}-ours")
    assert actual.shape == expected.shape
    assert (actual - expected).abs().mean() < HALF_PRECISION_ERROR * expected.std()


def test_a_default_device_of_the_stock_text_encoder_loader_is_auto(server: Server) -> None:
    graph = exchanged(separate_files())
    result = server.client.run({"clip": graph["clip"], "show": node("PreviewAny", source=["clip", 0])})
    (stage,) = result.outputs["clip"]["xpu"]
    assert (stage["requested"], stage["reason"]) == ("auto", "")


@pytest.mark.parametrize("stock", OURS)
def test_a_search_for_the_stock_node_finds_ours_where_the_host_knows_aliases(known: Any, stock: str) -> None:
    assert (stock in known[OURS[stock]].get("search_aliases", [])) == ("search_aliases" in known[stock])


def test_resident_is_an_advanced_input_where_the_host_has_such(known: Any, host: Path) -> None:
    asked = "import inspect, json; from comfy_api.latest import io; "
    asked += "print(json.dumps('advanced' in inspect.signature(io.Combo.Input).parameters))"
    inputs = known["XPULoadCheckpoint"]["input"]["optional"]
    assert inputs["resident"][1].get("advanced", False) == answer_in_comfyui(host, asked)
    assert "advanced" not in inputs["device"][1]
