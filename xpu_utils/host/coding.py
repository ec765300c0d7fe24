"""Decodes and encodes with a placed VAE."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name
import torch

from ..placement import AUTO, Placement
from .health import placement_of
from .inventory import placement_for
from .placing import check_vae, place_vae
from .recovery import placement_after


def decode(vae: Any, latent: dict[str, Any], device: str, precision: str) -> tuple[torch.Tensor, Placement]:
    """Decodes a LATENT into an IMAGE (N, H, W, 3) with ComfyUI's own node.

    Raises:
        ValueError: the VAE holds no weights, the latent has no size, or it or the weights hold NaN.
    """
    placed, placement = placed_vae(vae, device, precision)
    if math.prod(latent["samples"].shape) == 0:
        raise ValueError("The latent has no size: give it a width and height above zero.")
    (image,) = host_nodes.NODE_CLASS_MAPPINGS["VAEDecode"]().decode(placed, latent)
    return image, with_tiling(placement_after(placed.patcher, placement), placed)


def encode(vae: Any, pixels: torch.Tensor, device: str, precision: str) -> tuple[dict[str, Any], Placement]:
    """Encodes an IMAGE (N, H, W, 3) into a LATENT with ComfyUI's own node.

    Raises:
        ValueError: the VAE holds no weights, or they or the picture hold NaN.
    """
    placed, placement = placed_vae(vae, device, precision)
    (latent,) = host_nodes.NODE_CLASS_MAPPINGS["VAEEncode"]().encode(placed, pixels)
    return latent, with_tiling(placement_after(placed.patcher, placement), placed)


def placed_vae(vae: Any, device: str, precision: str) -> tuple[Any, Placement]:
    """The VAE as it is where it was placed already and nothing else is asked for, else newly placed.

    Raises:
        ValueError: the VAE holds no weights, or the device string is malformed.
    """
    check_vae(vae)
    already = placement_of(vae.patcher)
    if already is not None and device == AUTO and precision == AUTO:
        return vae, already
    return place_vae(vae, placement_for(device, precision))


def with_tiling(placement: Placement, vae: Any) -> Placement:
    """The placement, saying in which tiles the VAE's last call was done where it was not done as a whole."""
    tiling = getattr(vae, "last_tiling", None)
    if tiling is None:
        return placement
    return dataclasses.replace(placement, reason="; ".join(filter(None, (placement.reason, str(tiling)))))
