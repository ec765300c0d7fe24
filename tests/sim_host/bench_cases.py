"""The streaming and loading benchmarks, on a tiny model and a simulated device; see worker.py."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.bench import pressure_turn, stream_turns
from tests.bench.__main__ import main
from tests.harness.synthetic import write_model


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


def case_pressure() -> Any:
    """Ways of sampling, measured in this process: what they measure is not the point."""
    stream_turns.SHAPES["sd15"] = dataclasses.replace(stream_turns.SHAPES["tiny"], context=(77, 768))
    with tempfile.TemporaryDirectory() as folder, _no_other_models():
        path = write_model("sd15-tiny-unet", Path(folder))
        turns = [pressure_turn.measure("sd15", 2, 7, path, "xpu:0", way) for way in ("ours", "pinned", "intel")]
    return [dataclasses.asdict(turn) for turn in turns]


@contextlib.contextmanager
def _no_other_models() -> Iterator[None]:
    """For the block, ComfyUI forgets the folders of models that other cases have told it of and removed."""
    import folder_paths

    before = folder_paths.folder_names_and_paths.pop("diffusion_models")
    folder_paths.filename_list_cache.pop("diffusion_models", None)
    try:
        yield
    finally:
        folder_paths.folder_names_and_paths["diffusion_models"] = before


def _run(bench: str, *arguments: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        code = main([bench, "--device", "xpu:0", "--json", str(report), *arguments])
        return {"code": code, "report": json.loads(report.read_text())}
