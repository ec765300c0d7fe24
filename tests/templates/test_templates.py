"""Two of ComfyUI's templates, as its editor sends them, with our nodes and tiny models; `make templates` has all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness.hosts import host_path

from .running import lacking, ran, write_models
from .smaller import NoStandIn, smaller, stand_ins

PROMPTS = json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    write_models(host_path(), folder / "models", PROMPTS.values())
    return folder


def test_templates_run_with_our_nodes_and_tiny_models(base: Path) -> None:
    written = {file.stem for file in (base / "models").rglob("*.safetensors")}
    assert written == {"ZImage", "QWEN3_4B", "VAE-Flux", "SDXL", "SDXLRefiner"}
    workflows = {name: {"nodes": []} for name in PROMPTS}
    assert dict(ran(workflows, PROMPTS, host_path(), base)) == dict.fromkeys(PROMPTS, "")


def test_a_prompt_gets_smaller_and_keeps_its_schedule(base: Path) -> None:
    small = smaller(PROMPTS["sdxl_simple_example"], base / "models", {})
    assert {(small["5"]["inputs"][side]) for side in ("width", "height")} == {64}
    parts = [(small[key]["inputs"]["start_at_step"], small[key]["inputs"]["end_at_step"]) for key in ("10", "11")]
    assert parts == [(0, 1), (1, 10000)]
    assert small["12"]["inputs"]["ckpt_name"] == "SDXLRefiner.safetensors"


def test_a_number_is_cut_by_what_it_is_handed_to_but_not_below_what_its_node_takes(tmp_path: Path) -> None:
    prompt = {
        "size": {"class_type": "PrimitiveInt", "inputs": {"value": 1024}},
        "seed": {"class_type": "PrimitiveInt", "inputs": {"value": 1024}},
        "twice": {"class_type": "ComfyMathExpression", "inputs": {"values.a": ["size", 0]}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": ["twice", 0], "seed": ["seed", 0]}},
    }
    small = smaller(prompt, tmp_path, {"PrimitiveInt": {"input": {"required": {"value": ["INT", {"min": 96}]}}}})
    assert (small["size"]["inputs"]["value"], small["seed"]["inputs"]["value"]) == (96, 1024)


def test_a_file_that_nothing_stands_for_is_told(tmp_path: Path) -> None:
    names = {"clip_name1": "clip_l.safetensors", "clip_name2": "unheard-of.safetensors"}
    prompt = {"texts": {"class_type": "DualCLIPLoader", "inputs": names}}
    assert stand_ins(prompt) == {"CLIP_L"}
    (tmp_path / "text_encoders").mkdir()
    (tmp_path / "text_encoders" / "CLIP_L.safetensors").touch()
    with pytest.raises(NoStandIn, match="unheard-of"):
        smaller(prompt, tmp_path, {})


def test_nodes_that_a_template_needs_and_comfyui_lacks_are_told() -> None:
    inside = {"id": "a-subgraph", "nodes": [{"type": "FromAPack"}, {"type": "Elsewhere"}]}
    workflow = {"nodes": [{"type": "a-subgraph"}, {"type": "Note"}], "definitions": {"subgraphs": [inside]}}
    assert lacking(workflow, {"Elsewhere": {}}) == "ComfyUI has no FromAPack"
    assert lacking(workflow, {"Elsewhere": {"api_node": True}, "FromAPack": {}}) == "Elsewhere asks a service"
