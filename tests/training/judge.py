"""Names the subject of a picture: a small classifier that has seen renderings only, never a generated picture."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from .subjects import SUBJECTS

SIDE = 64
"""Pixels of the pictures that it looks at."""


def judge() -> torch.nn.Sequential:
    """(N, 3, 64, 64) in 0..1 to (N, subjects)."""
    layers: list[torch.nn.Module] = []
    for given, taken in ((3, 24), (24, 48), (48, 96), (96, 128)):
        layers += [torch.nn.Conv2d(given, taken, 3, stride=2, padding=1), torch.nn.GroupNorm(4, taken), torch.nn.SiLU()]
    return torch.nn.Sequential(
        *layers, torch.nn.Flatten(), torch.nn.Dropout(0.3), torch.nn.Linear(128 * 16, len(SUBJECTS))
    )


def shrunk(pictures: torch.Tensor) -> torch.Tensor:
    """(N, 3, H, W) pictures as the judge looks at them."""
    return F.interpolate(pictures, (SIDE, SIDE), mode="area")


def named(pictures: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> list[str]:
    """The subject of each picture.

    Args:
        pictures: (N, 3, H, W) in 0..1.
        weights: the judge's, of any dtype.
    """
    network = judge().eval()
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    with torch.inference_mode():
        return [SUBJECTS[index] for index in network(shrunk(pictures.float())).argmax(1).tolist()]
