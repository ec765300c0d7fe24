"""What the template browser offers: whole graphs with pictures, whose models are named; and blueprints."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.harness.examples import BLUEPRINTS, EXAMPLES
from tests.harness.hosts import ROOT
from tests.harness.server import Server

from .conftest import run_ok

FOLDER, BLUEPRINT_FOLDER = ROOT / "example_workflows", ROOT / "subgraphs"
OTHERS = {"MarkdownNote", "UnetLoaderGGUF"}
"""The editor's own, and the pack's that a note names."""


def test_the_examples_use_nodes_that_exist(server: Server) -> None:
    known = server.client.get("/object_info").keys() | OTHERS
    workflows = sorted(FOLDER.rglob("*.json"))
    assert {path.stem for path in FOLDER.glob("*.json")} == EXAMPLES.keys(), "each names its models there"
    for path in workflows:
        workflow = json.loads(path.read_text(encoding="utf-8"))
        entries = workflow["nodes"] if "nodes" in workflow else workflow.values()
        assert {entry.get("class_type") or entry["type"] for entry in entries} <= known


def test_every_example_in_the_editor_s_format_has_the_picture_that_the_template_browser_asks_for() -> None:
    examples = {path.stem for path in FOLDER.glob("*.json")}
    assert {path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".json"} == {
        f"{name}.jpg" for name in examples
    }
    assert all(path.stat().st_size < 300_000 for path in FOLDER.glob("*.jpg"))


@pytest.mark.parametrize("path", [*FOLDER.glob("*.json"), *BLUEPRINT_FOLDER.glob("*.json")], ids=lambda path: path.stem)
def test_no_example_holds_a_null_but_for_a_slot_without_a_link(path: Path) -> None:
    nulls: set[str] = set()

    def gather(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nulls.update(key for key, value in pairs if value is None)
        return dict(pairs)

    json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=gather)
    assert nulls <= {"link", "links"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_model_file_of_an_example_is_named_with_its_address(name: str) -> None:
    example = EXAMPLES[name]
    typed = {value for node in example.graph.values() for value in node["inputs"].values() if isinstance(value, str)}
    files = {value for value in typed if value.endswith((".safetensors", ".gguf"))}
    assert files == {file["name"] for file in example.files()}
    nodes = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["nodes"]
    (note,) = (node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote")
    assert note == example.note(), "run `make examples`"
    offered = [file for node in nodes for file in node["properties"].get("models", [])]
    assert sorted(offered, key=str) == sorted(example.files(), key=str)


@pytest.mark.parametrize("name", ["sdxl", "two_cards"])
def test_the_checkpoint_s_examples_run(server: Server, name: str) -> None:
    graph = copy.deepcopy(EXAMPLES[name].graph)
    graph["checkpoint"]["inputs"]["ckpt_name"] = "sd15-tiny.safetensors"
    graph["latent"]["inputs"].update(width=64, height=64)
    graph["sampler"]["inputs"]["steps"] = 2
    assert run_ok(server, graph).outputs["save"]["images"]


def test_blueprints_are_offered_where_comfyui_has_them(server: Server, host: Path) -> None:
    if not (host / "app" / "subgraph_manager.py").is_file():
        return
    offered = server.client.get("/global_subgraphs")
    ours = {entry["name"]: key for key, entry in offered.items() if "xpu-nodes" in entry["info"]["node_pack"]}
    assert ours.keys() == BLUEPRINTS.keys()
    for name, key in ours.items():
        data = json.loads(server.client.get(f"/global_subgraphs/{key}")["data"])
        ((node,), (inside,)) = data["nodes"], data["definitions"]["subgraphs"]
        assert node["type"] == inside["id"]
        assert sorted(entry["type"] for entry in inside["nodes"]) == sorted(BLUEPRINTS[name].devices)
        assert inside["description"] == BLUEPRINTS[name].description, "run `make examples`"
