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


@dataclasses.dataclass(frozen=True)
class Family:
    """What ComfyUI takes a file's diffusion model for."""

    config: Any
    """Its own description."""
    shapes: Mapping[str, torch.Tensor]
    """The file's tensors, without memory."""
    prefix: str
    """Of the diffusion model's names."""


def family(path: Path) -> Family | None:
    """The family that ComfyUI sees in a file's names and shapes; None where it sees none."""
    shapes = {
        entry.name: torch.empty(entry.shape, dtype=entry.dtype or torch.uint8, device="meta") for entry in entries(path)
    }
    prefix = PREFIX if any(name.startswith(PREFIX) for name in shapes) else ""
    try:
        config = detection.model_config_from_unet(dict(shapes), prefix)
    except _UNTOLD:
        return None
    return config and Family(config, shapes, prefix)


def step(seen: Family | None, asked: Size | None) -> tuple[int, Size] | None:
    """Bytes of a family's step, and the size that they are for; None for what has no such size, as sound."""
    if seen is None:
        return None
    config = seen.config
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


def picked(seen: Family | None, *, quantised: bool) -> torch.dtype | None:
    """The format that ComfyUI makes a family's model in by itself on its default device; None for no family.

    Args:
        quantised: whether the file has layers with scales: then the format of its weights tells nothing.
    """
    if seen is None:
        return None
    dtype: torch.dtype = model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(seen.shapes, seen.prefix),
        supported_dtypes=[*seen.config.supported_inference_dtypes],
        weight_dtype=None if quantised else comfy.utils.weight_dtype(seen.shapes, seen.prefix),
    )
    return dtype
