"""Normalisation, padding, pooling, resizing: the layers of the models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.sim.comparing import HALVES, Function, check, check_or_refuse, numbers


def resized(**options: Any) -> Function:
    return lambda x: F.interpolate(x, scale_factor=1.5, **options)


IMAGE = (2, 8, 6, 10)
LAYERS: dict[str, Function] = {
    "layer_norm": lambda x: F.layer_norm(x, (10,)),
    "group_norm": lambda x: F.group_norm(x, 4),
    "rms_norm": lambda x: F.rms_norm(x, (10,)),
    "instance_norm": lambda x: F.instance_norm(x),
    "batch_norm": lambda x: F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3))),
    "normalize": lambda x: F.normalize(x, dim=1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad reflect": lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "pad replicate": lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"),
    "pad circular": lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"),
    "nearest": resized(mode="nearest"),
    "nearest-exact": resized(mode="nearest-exact"),
    "bilinear": resized(mode="bilinear"),
    "bilinear antialias": lambda x: F.interpolate(x, (3, 5), mode="bilinear", antialias=True),
    "bicubic": resized(mode="bicubic", align_corners=True),
    "area": lambda x: F.interpolate(x, (3, 5), mode="area"),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 10), 3, padding=1),
    "glu": lambda x: F.glu(x, 1),
    "dropout in eval": lambda x: F.dropout(x, 0.5, training=False),
    "grid_sample": lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).contiguous(), align_corners=False),
    "softmax": lambda x: F.softmax(x, dim=1),
    "softmax in fp32": lambda x: F.softmax(x, dim=-1, dtype=torch.float32),
    "mse_loss": lambda x: F.mse_loss(x, x * 0.5),
}


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, dtype: torch.dtype) -> None:
    if name == "bilinear antialias":
        dtype = torch.float32  # the CPU's only one
    check(LAYERS[name], numbers(*IMAGE, dtype=dtype))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_of_an_empty_batch(name: str) -> None:
    check_or_refuse(LAYERS[name], numbers(0, *IMAGE[1:]))
