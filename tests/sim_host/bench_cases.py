"""The streaming and loading benchmarks, on a tiny model and a simulated device; see worker.py."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.bench import stream_turns
from tests.bench.__main__ import main


def case_stream() -> Any:
    return _run("stream", "--shape", "tiny", "--rounds", "1", "--steps", "6")


def case_a_small_flux() -> Any:
    """Of one block of each kind, and as wide as one head."""
    flux = stream_turns.SHAPES["flux-bf16"]
    config = {**flux.config, "hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1}
    shape = dataclasses.replace(flux, config=config, latent=(1, 16, 8, 8), context=(8, 4096))
    patcher = stream_turns.build(shape, torch.device("xpu:0"))
    patcher.partially_load(torch.device("xpu:0"), 1e32)
    latent, _ = stream_turns.sample(patcher, shape, stream_turns.WARM_STEPS + 1)
    return {"finite": bool(latent.isfinite().all()), "spread": float(latent.std())}


def case_load() -> Any:
    return _run("load", "--layout", "sd15-tiny-unet", "--rounds", "1")


def _run(bench: str, *arguments: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        code = main([bench, "--device", "xpu:0", "--json", str(report), *arguments])
        return {"code": code, "report": json.loads(report.read_text())}
