"""Which workflows count as served by the switch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xpu_utils.commands.templates import as_text, judged


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
    found = judged(sorted(tmp_path.glob("*.json")))
    assert found == {"by node": ["VAE"], "inner": ["SAM3D_BODY_MODEL"], "muted": [], "plain": []}
    assert "2 of 4 workflows that load models here are wholly served (50.0%)." in as_text(found)
