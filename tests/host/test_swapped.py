"""Which of ComfyUI's templates still fit with our nodes in them, by the host's own validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness import swapped
from tests.harness.workflows import OURS


def node(number: int, kind: str, *inputs: str, mode: int = 0) -> dict[str, Any]:
    return {"id": number, "type": kind, "mode": mode, "inputs": [{"name": name} for name in inputs]}


PLAIN = {
    "nodes": [node(1, "VAELoader"), node(2, "VAEDecode", "samples", "vae"), node(3, "VAELoader", mode=4)],
    "links": [[7, 1, 0, 2, 1, "VAE"], [8, 3, 0, 2, 1, "VAE"]],
}
LINK = {"origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0}
INNER = {
    "nodes": [],
    "definitions": {
        "subgraphs": [{"nodes": [node(1, "UNETLoader"), node(2, "NodeOfTomorrow", "model")], "links": [LINK]}]
    },
}
CORES_OWN_MISTAKE = {
    "nodes": [node(1, "VAELoader"), node(2, "KSampler", "model")],
    "links": [[7, 1, 0, 2, 0, "VAE"]],
}


def test_a_link_fits_unless_our_node_is_the_reason_that_it_does_not(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflows = {"plain": PLAIN, "inner": INNER, "wrong": CORES_OWN_MISTAKE, "without": {"nodes": [], "links": []}}
    counts = {"templates": 3, "lacking": 1, "links": 3}
    assert swapped.judged(workflows, host, tmp_path) == {**counts, "misfits": {}}
    monkeypatch.setitem(OURS, "VAELoader", "XPULoadControlNet")
    found = swapped.judged(workflows, host, tmp_path)["misfits"]
    assert found == {"plain": ["XPULoadControlNet to XPUVAEDecode.vae: return_type_mismatch"]}
