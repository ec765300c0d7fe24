"""Which workflows count as served by the switch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tests.harness.hosts import ROOT
from xpu_utils.commands.templates import as_text, judged, run


def node(kind: str, *outputs: str, mode: int = 0, given: str = "") -> dict[str, Any]:
    inputs = [{"type": given, "link": 1}] if given else []
    return {"type": kind, "mode": mode, "inputs": inputs, "outputs": [{"type": output} for output in outputs]}


def test_workflows_are_judged_by_the_models_that_run_in_them(tmp_path: Path) -> None:
    body = node("SAM3DBody_Loader", "SAM3D_BODY_MODEL")
    splat = node("VAEDecodeTripoSplat", "SPLAT", given="VAE")
    workflows = {
        "api": {"nodes": [node("OpenAI", "IMAGE")]},
        "plain": {"nodes": [node("UNETLoader", "MODEL"), node("KSampler", "LATENT", given="MODEL")]},
        "inner": {"nodes": [], "definitions": {"subgraphs": [{"nodes": [node("VAELoader", "VAE"), body]}]}},
        "muted": {"nodes": [node("VAELoader", "VAE"), {**body, "mode": 4}]},
        "by node": {"nodes": [node("VAELoader", "VAE"), splat]},
    }
    for name, workflow in workflows.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(workflow))
    (tmp_path / "index.json").write_text("[]")
    found, damaged = judged(sorted(tmp_path.glob("*.json")))
    assert not damaged
    assert found == {"by node": ["VAE"], "inner": ["SAM3D_BODY_MODEL"], "muted": [], "plain": []}
    assert "2 of 4 workflows that load models here are wholly served (50.0%)." in as_text(found)


def test_our_own_examples_are_wholly_served() -> None:
    assert run(argparse.Namespace(folder=ROOT / "example_workflows")) == (
        0,
        "5 of 5 workflows that load models here are wholly served (100.0%).",
    )


def test_a_damaged_file_is_named_and_what_is_no_folder_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"nodes": [')
    (tmp_path / "nulls.json").write_text('{"nodes": null, "definitions": null}')
    (tmp_path / "whole.json").write_text(json.dumps({"nodes": [node("VAELoader", "VAE")], "definitions": None}))
    code, text = run(argparse.Namespace(folder=tmp_path))
    assert (code, text.splitlines()[0]) == (0, "cut.json: cannot be read as JSON, left out")
    assert "1 of 1 workflows" in text
    for missing in (tmp_path / "missing", tmp_path / "whole.json"):
        code, text = run(argparse.Namespace(folder=missing))
        assert (code, text) == (2, f"templates: {missing} is not a folder, name one that holds workflows.")
