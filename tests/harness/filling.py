"""A whole safetensors file by way of `fill`, for tests and benchmarks: our loaders fill what ComfyUI builds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from xpu_utils.weights.fill import fill
from xpu_utils.weights.header import entries
from xpu_utils.weights.spans import Span


def read_all(
    path: Path, device: torch.device, *, dtype: torch.dtype | None = None, **options: Any
) -> dict[str, torch.Tensor]:
    """All tensors of a file, those of 16 and 32 bits a number as `dtype`; `options` are those of `fill`."""
    tensors: dict[str, torch.Tensor] = {}
    header = entries(path)

    def spans() -> Iterator[Span]:
        for entry in header:
            wide = entry.dtype in (torch.float16, torch.bfloat16, torch.float32)
            tensors[entry.name] = torch.empty(
                entry.shape, dtype=dtype if dtype and wide else entry.dtype, device=device
            )
            yield Span(entry.start, entry.dtype, tensors[entry.name])

    fill(path, device, spans(), **options)
    return tensors
