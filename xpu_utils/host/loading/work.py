"""What ComfyUI knows of a file by its names and shapes: what a step needs beside the weights, and their format.

The doctor's command has a process read this, in which nothing of ComfyUI but the estimate is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.model_detection as detection
import comfy.model_management as model_management
import comfy.utils
import torch

from ...forecast import Size
from ...weights.header import entries

ASSUMED = Size(1024, 1024)
"""Where nothing says what will be asked for."""
PREFIX = "model.diffusion_model."
_UNTOLD = (RuntimeError, LookupError, AttributeError, TypeError, ValueError, ArithmeticError, AssertionError)
"""What detection raises on families that are told by values, which are not read, and on weights of no family: the
loader meets the same, and says what is wrong."""
_GUIDED = 2
"""Pictures that a step with guidance computes at once."""
_OF_8_PIXELS = (4, 12, 16)
"""Channels of the latents that stand for 8 x 8 pixels; older ComfyUI does not say for how many."""


def step(path: Path, asked: Size | None) -> tuple[int, Size] | None:
    """Bytes of a step of the family that ComfyUI sees in names and shapes, and the size that they are for.

    None where it sees none, and for what has no such size, as sound.
    """
    config = _family(_shapes(path))
    if config is None:
        return None
    form = config.latent_format
    pixels = getattr(form, "spacial_downscale_ratio", 8 if form.latent_channels in _OF_8_PIXELS else None)
    if pixels is None or form.latent_dimensions < 2 or "audio_model" in config.unet_config:
        return None
    size, latents = dataclasses.replace(asked or ASSUMED, frames=None), 1
    if form.latent_dimensions > 2:
        # Older ComfyUI does not say how many frames are a latent: one frame is known of there.
        ratio = getattr(form, "temporal_downscale_ratio", None)
        frames = ((asked or ASSUMED).frames or 1) if ratio else 1
        size, latents = dataclasses.replace(size, frames=frames), (frames - 1) // (ratio or 1) + 1
    area = _GUIDED * size.batch * latents * (size.width / pixels) * (size.height / pixels)
    return int(area * 2 * 0.01 * config.memory_usage_factor * (1 << 20)), size


def picked(path: Path, *, quantised: bool) -> torch.dtype | None:
    """The format that ComfyUI makes the family's model in by itself on its default device; None where it sees none.

    Args:
        quantised: whether the file has layers with scales: then the format of its weights tells nothing.
    """
    shapes = _shapes(path)
    config = _family(shapes)
    if config is None:
        return None
    prefix = _prefix(shapes)
    stored = None if quantised else comfy.utils.weight_dtype(shapes, prefix)
    formats = [*config.supported_inference_dtypes]
    parameters = comfy.utils.calculate_parameters(shapes, prefix)
    dtype: torch.dtype = model_management.unet_dtype(
        model_params=parameters, supported_dtypes=formats, weight_dtype=stored
    )
    return dtype


def _shapes(path: Path) -> dict[str, torch.Tensor]:
    return {
        entry.name: torch.empty(entry.shape, dtype=entry.dtype or torch.uint8, device="meta") for entry in entries(path)
    }


def _prefix(shapes: Mapping[str, torch.Tensor]) -> str:
    return PREFIX if any(name.startswith(PREFIX) for name in shapes) else ""


def _family(shapes: Mapping[str, torch.Tensor]) -> Any:
    """The configuration of the family that a file is of."""
    try:
        return detection.model_config_from_unet(dict(shapes), _prefix(shapes))
    except _UNTOLD:
        return None
