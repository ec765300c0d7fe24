"""The checkpoint's text encoder: CLIP-L's layout with frozen random weights, which need no training and no storing.

A random transformer tells texts apart as well as the few names here need; what they mean is learnt by the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

SEED = 20261129


def frozen_weights(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights in fp16 for the keys and shapes of CLIP-L's text transformer, the same on every machine.

    Embeddings have unit size, so that tokens stay apart; what each layer adds is smaller, so that they stay so.
    NumPy's Philox is used because its numbers depend on neither processor nor version.
    """
    for index, (key, shape) in enumerate(sorted(shapes.items())):
        yield key, torch.from_numpy(_values(key, shape, np.random.Generator(np.random.Philox([SEED, index]))))


def _values(key: str, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    if "position_ids" in key:
        return np.arange(shape[-1]).reshape(shape)
    if len(shape) < 2:  # biases and the weights of norms
        return np.full(shape, 1.0 if key.endswith("weight") else 0.0, np.float16)
    size = 1.0 if "token_embedding" in key else 0.3 if "position_embedding" in key else shape[-1] ** -0.5
    if key.endswith(("out_proj.weight", "fc2.weight")):
        size *= 0.3
    return (draw.standard_normal(shape, np.float32) * size).astype(np.float16)
