"""Sizes of latents and pictures that cannot end well, refused before any work is done."""

from __future__ import annotations

import math
from collections.abc import Sequence

GIB = 1 << 30
PICTURE_CHANNELS, FLOAT_BYTES = 3, 4


def check_latent(shape: Sequence[int]) -> None:
    """Refuses a latent without any element.

    Raises:
        ValueError: it has none.
    """
    if math.prod(shape) == 0:
        raise ValueError(f"The latent has no size ({_text(shape)}): give it a width and height above zero.")


def check_step(shape: Sequence[int], needed_bytes: float, limit_bytes: float) -> None:
    """Refuses a latent whose sampling step needs more memory than there is.

    Raises:
        ValueError: it does.
    """
    if needed_bytes > limit_bytes:
        raise ValueError(
            f"The latent {_text(shape)} would need about {needed_bytes / GIB:.0f} GiB a step, which no device here "
            "has: make the picture or the batch smaller."
        )


def check_decoded(shape: Sequence[int], scale: int, host_bytes: int) -> None:
    """Refuses a latent (N, C, ..., H, W) whose picture the host's memory cannot hold, in whatever tiles it is decoded.

    Args:
        scale: pixels of the picture, or samples of the audio, for each of the latent along a side.
        host_bytes: all the memory that the host has.

    Raises:
        ValueError: it cannot.
    """
    batch, _, *sides = shape
    pixels = batch * math.prod(sides) * scale ** min(2, len(sides))
    picture_bytes = pixels * PICTURE_CHANNELS * FLOAT_BYTES
    if picture_bytes > host_bytes:
        raise ValueError(
            f"The latent {_text(shape)} would become a picture of {picture_bytes / GIB:.0f} GiB, which is more memory "
            "than this machine has: make the picture or the batch smaller."
        )


def check_encoded(shape: Sequence[int], cropped: Sequence[int], unit_pixels: int) -> None:
    """Refuses a picture (N, H, W, C) of which nothing is left when it is cropped to whole latent elements.

    Args:
        cropped: its shape after that.
        unit_pixels: the side of one latent element.

    Raises:
        ValueError: nothing is left.
    """
    if math.prod(cropped) == 0:
        height, width = shape[-3:-1]
        raise ValueError(
            f"The picture ({width}x{height} pixels) is too small for this VAE: make it at least "
            f"{unit_pixels}x{unit_pixels}."
        )


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
