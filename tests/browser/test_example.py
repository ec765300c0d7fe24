"""The example workflow in the real editor: complete, and the same as the one for the API."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page

from tests.harness.hosts import ROOT

EXAMPLES = ROOT / "example_workflows"


def contents(prompt: dict[str, Any]) -> list[tuple[str, str]]:
    """Each node's class and what is typed into it, whatever the nodes are called; 7 and 7.0 are the same in a page."""
    return sorted(
        (entry["class_type"], json.dumps({name: str(value).removesuffix(".0") for name, value in typed(entry).items()}))
        for entry in prompt.values()
    )


def typed(entry: dict[str, Any]) -> dict[str, Any]:
    """A node's inputs that are no links, by name."""
    return {name: value for name, value in sorted(entry["inputs"].items()) if not isinstance(value, list)}


def test_the_example_opens_without_a_missing_node_and_is_the_one_for_the_api(page: Page) -> None:
    workflow = json.loads((EXAMPLES / "text_to_image.json").read_text(encoding="utf-8"))
    page.evaluate("async (data) => { await window.app.loadGraphData(data); }", workflow)
    opened = page.evaluate(
        "() => window.app.graph.nodes.map((node) => [node.type, node.type in window.LiteGraph.registered_node_types])"
    )
    assert sorted(kind for kind, _ in opened) == sorted(node["type"] for node in workflow["nodes"])
    assert all(known for _, known in opened), opened
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    expected = json.loads((EXAMPLES / "api" / "text_to_image.json").read_text(encoding="utf-8"))
    assert contents(prompt) == contents(expected)
    assert sum(isinstance(value, list) for entry in prompt.values() for value in entry["inputs"].values()) == len(
        workflow["links"]
    )
