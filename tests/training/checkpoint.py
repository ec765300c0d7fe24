"""The trained weights as a checkpoint in SD3's layout, which ComfyUI's own loaders detect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from .text_encoder import frozen_weights

NAME = "emoji"
"""The layout's name among those of the harness."""

FOLDER = Path(__file__).with_name("weights")
_TEXT_INPUTS = {
    "model.diffusion_model.context_embedder.weight": 4096,
    "model.diffusion_model.y_embedder.mlp.0.weight": 2048,
}
"""Matrices of which only the columns that CLIP-L fills were learnt and kept -> the columns that SD3's layout has."""


def trained(name: str, folder: Path = FOLDER) -> dict[str, torch.Tensor]:
    """A file of trained weights.

    Raises:
        ValueError: it is missing or not what the training wrote.
    """
    path = folder / f"{name}.safetensors"
    try:
        written = json.loads((folder / "training.json").read_text(encoding="utf-8"))["sha256"][name]
        whole = hashlib.sha256(path.read_bytes()).hexdigest() == written
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{path.name}: the trained weights are missing or damaged, get them from the repository.")
    return load_file(path)


def checkpoint(text_shapes: Mapping[str, tuple[int, ...]], folder: Path = FOLDER) -> dict[str, torch.Tensor]:
    """All weights of the checkpoint, in fp16, which holds what is kept in fp8 exactly.

    Args:
        text_shapes: keys and shapes of CLIP-L's text transformer, without a prefix.

    Raises:
        ValueError: the trained weights are missing or damaged.
    """
    weights = {key: weight.half() for key, weight in trained(NAME, folder).items()}
    for key, columns in _TEXT_INPUTS.items():
        weights[key] = F.pad(weights[key], (0, columns - weights[key].shape[1]))
    frozen = frozen_weights(text_shapes)
    return {**weights, **{f"text_encoders.clip_l.transformer.{key}": weight for key, weight in frozen}}
