"""Every node explains itself: help page, English texts, description."""

from __future__ import annotations

import json
from typing import Any

from tests.harness.hosts import ROOT
from tests.harness.server import Server

WORKFLOWS = sorted((ROOT / "example_workflows").rglob("*.json"))


def our_nodes(server: Server) -> dict[str, dict[str, Any]]:
    return {name: node for name, node in server.client.get("/object_info").items() if name.startswith("XPU")}


def inputs_of(node: dict[str, Any]) -> set[str]:
    """What a user sees on the node."""
    return {entry for group in ("required", "optional") for entry in node["input"].get(group, {})}


def test_every_node_has_a_help_page_that_the_server_serves(server: Server) -> None:
    nodes = our_nodes(server)
    assert len(nodes) >= 20
    for name, node in nodes.items():
        page = server.client.get_bytes(f"/extensions/xpu-nodes/docs/{name}.md").decode()
        assert page.startswith(f"# {node['display_name']}\n")
        for entry in inputs_of(node):
            explained = entry in page or entry.replace("_", " ") in page or "The stock inputs" in page
            assert explained, f"{name}'s page does not explain {entry}"


def test_the_english_texts_are_those_of_the_nodes(server: Server) -> None:
    texts = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    nodes = our_nodes(server)
    assert texts.keys() == nodes.keys()
    for name, node in nodes.items():
        assert texts[name]["display_name"] == node["display_name"]
        assert texts[name]["description"] == node["description"]
        assert set(texts[name]["inputs"]) == inputs_of(node)


def test_the_example_workflow_uses_nodes_that_exist(server: Server) -> None:
    known = server.client.get("/object_info")
    assert WORKFLOWS
    for path in WORKFLOWS:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        entries = workflow["nodes"] if "nodes" in workflow else workflow.values()
        assert {entry.get("class_type") or entry["type"] for entry in entries} <= known.keys()
