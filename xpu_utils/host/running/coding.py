"""Decodes and encodes with a placed VAE."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name
import torch

from ...choice import AUTO
from ...memory.sizes import check_decoded, check_encoded, check_latent
from ...placement import Placement
from ..inventory import placement_over
from ..placing.placed import placement_of
from ..recovery.rungs import placement_after
from ..stages import decided
from ..target import HOST
from .vae import check_vae, place_vae


def decode(vae: Any, latent: dict[str, Any], device: str, precision: str) -> tuple[torch.Tensor, Placement]:
    """Decodes a LATENT into an IMAGE (N, H, W, 3) with ComfyUI's own node.

    Raises:
        ValueError: the VAE holds no weights, the latent has no size or is far too large, or it or the weights hold NaN.
    """
    placed, placement = placed_vae(vae, device, precision)
    decided(placement)
    shape = latent["samples"].shape
    check_latent(shape)
    check_decoded(shape, placed.spacial_compression_decode(), model_management.get_total_memory(HOST))
    (image,) = host_nodes.NODE_CLASS_MAPPINGS["VAEDecode"]().decode(placed, latent)
    return image, with_tiling(placement_after(placed.patcher, placement), placed)


def encode(vae: Any, pixels: torch.Tensor, device: str, precision: str) -> tuple[dict[str, Any], Placement]:
    """Encodes an IMAGE (N, H, W, 3) into a LATENT with ComfyUI's own node.

    Raises:
        ValueError: the VAE holds no weights, the picture is too small, or it or the weights hold NaN.
    """
    placed, placement = placed_vae(vae, device, precision)
    check_encoded(pixels.shape, placed.vae_encode_crop_pixels(pixels).shape, placed.spacial_compression_encode())
    decided(placement)
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
    return place_vae(vae, placement_over(already, device, precision))


def with_tiling(placement: Placement, vae: Any) -> Placement:
    """The placement, saying in which tiles the VAE's last call was done where it was not done as a whole."""
    tiling = getattr(vae, "last_tiling", None)
    return placement if tiling is None else placement.noting(str(tiling))
