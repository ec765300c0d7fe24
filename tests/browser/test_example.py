"""Example workflows and blueprints in the real editor: complete, and the same as the graphs for the API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.harness import sim
from tests.harness.examples import BLUEPRINTS, whole_graph
from tests.harness.examples import EXAMPLES as GRAPHS
from tests.harness.hosts import ROOT

EXAMPLES = ROOT / "example_workflows"
API = EXAMPLES / "api" / "text_to_image.json"


def contents(prompt: dict[str, Any]) -> list[tuple[str, str]]:
    """Each node's class and what is typed into it, whatever the nodes are called; 7 and 7.0 are the same in a page."""
    return sorted(
        (entry["class_type"], json.dumps({name: str(value).removesuffix(".0") for name, value in typed(entry).items()}))
        for entry in prompt.values()
    )


def typed(entry: dict[str, Any]) -> dict[str, Any]:
    """A node's inputs that are no links, by name."""
    return {name: value for name, value in sorted(entry["inputs"].items()) if not isinstance(value, list)}


@pytest.fixture(autouse=True)
def no_dialogue(page: Page) -> Iterator[None]:
    """What the editor asks about models that are not there is gone before the next test clicks."""
    yield
    masks = page.locator(".p-dialog-mask")
    for _ in range(masks.count()):
        page.keyboard.press("Escape")
    expect(masks).to_have_count(0)


@pytest.mark.parametrize("path", [*sorted(EXAMPLES.glob("*.json")), sim.EXAMPLE], ids=lambda path: path.stem)
def test_an_example_opens_without_a_missing_node_and_is_the_one_for_the_api(page: Page, path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate("async (data) => { await window.app.loadGraphData(data); }", workflow)
    opened = page.evaluate(
        "() => window.app.graph.nodes.map((node) => [node.type, node.type in window.LiteGraph.registered_node_types])"
    )
    assert sorted(kind for kind, _ in opened) == sorted(node["type"] for node in workflow["nodes"])
    assert all(known for _, known in opened), opened
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert contents(prompt) == contents(
        json.loads(API.read_text("utf-8")) if path == sim.EXAMPLE else GRAPHS[path.stem].graph
    )
    assert sum(isinstance(value, list) for entry in prompt.values() for value in entry["inputs"].values()) == len(
        workflow["links"]
    )


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_blueprint_opens_as_one_node_of_ours_inside(page: Page, name: str) -> None:
    blueprint = json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
    page.evaluate("async (data) => { await window.app.loadGraphData(data); }", blueprint)
    inside = page.evaluate("() => window.app.graph.nodes.map((node) => node.subgraph.nodes.map(({type}) => type))")
    assert [sorted(types) for types in inside] == [sorted(BLUEPRINTS[name].devices)]
    shown = page.evaluate(
        "() => window.app.graph.nodes[0].widgets.map(({label, name, value}) => [label ?? name, value])"
    )
    asked = {node["class_type"]: node["inputs"].get("device") for node in whole_graph().values()}
    assert dict(shown) == {label: asked[kind] for kind, label in BLUEPRINTS[name].devices.items()}
