"""device=cpu with precision=fp32 gives, bit for bit, what the stock nodes give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.harness.server import Server
from tests.harness.workflows import Workflow, node, text_to_image, with_our_nodes

from .conftest import dumped
from .graphs import GRAPHS, custom_sampler, sd3, sd15

CORE = {sd15, sd3}


@pytest.mark.parametrize(
    "graph", [pytest.param(graph, id=graph.__name__, marks=[pytest.mark.core] * (graph in CORE)) for graph in GRAPHS]
)
def test_our_nodes_give_the_stock_nodes_result(server: Server, graph: Callable[[], Workflow]) -> None:
    stock = graph()
    ours = with_our_nodes(stock, device="cpu", precision="fp32")
    for source in ("sampler", stock["save"]["inputs"]["images"][0]):
        expected = dumped(server, stock, [source, 0], f"{graph.__name__}-stock-{source}")
        actual = dumped(server, ours, [source, 0], f"{graph.__name__}-ours-{source}")
        assert torch.isfinite(expected).all()
        assert expected.std() > 0.01, "a constant result would equal anything"
        assert torch.equal(actual, expected)


@pytest.mark.core
def test_place_nodes_leave_a_stock_graph_unchanged(server: Server) -> None:
    expected = dumped(server, custom_sampler(text_to_image(), placed=False), ["decode", 0], "custom-stock")
    actual = dumped(server, custom_sampler(text_to_image(), placed=True), ["decode", 0], "custom-placed")
    assert torch.equal(actual, expected)


def test_clip_vision_gives_the_stock_nodes_result(server: Server) -> None:
    graph = {
        "vision": node("CLIPVisionLoader", clip_name="clip-vision-l.safetensors"),
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0x884422),
        "encoded": node("CLIPVisionEncode", clip_vision=["vision", 0], image=["picture", 0], crop="center"),
    }
    expected = dumped(server, graph, ["encoded", 0], "vision-stock")
    ours = with_our_nodes(graph, device="cpu", precision="fp32")
    assert torch.equal(dumped(server, ours, ["encoded", 0], "vision-ours"), expected)


def test_another_seed_gives_another_result(server: Server) -> None:
    first = dumped(server, with_our_nodes(text_to_image(seed=1)), ["sampler", 0], "seed-1")
    second = dumped(server, with_our_nodes(text_to_image(seed=2)), ["sampler", 0], "seed-2")
    assert not torch.equal(first, second)
