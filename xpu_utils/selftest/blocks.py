"""Formats with a scale for each block of numbers, as ComfyUI computes in them: by comfy-kitchen, which it requires.

By its back end of PyTorch's own operators: beside NVIDIA's cards ComfyUI takes no other unless it is told to.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

Packed = tuple[torch.Tensor, ...]
"""Numbers in a format, and their scales."""

INSTALLED = importlib.util.find_spec("comfy_kitchen") is not None
_LARGEST_NVFP4 = 6 * 448
"""Of a number in 4 bits, times its block's scale in fp8_e4m3."""


@contextmanager
def _kitchen() -> Iterator[Any]:
    kitchen = importlib.import_module("comfy_kitchen")
    with kitchen.use_backend("eager"):
        yield kitchen


def pack_nvfp4(numbers: torch.Tensor) -> Packed:
    """To the format's whole range, by one scale beside the blocks'."""
    scale = numbers.abs().amax().float() / _LARGEST_NVFP4
    with _kitchen() as kitchen:
        return (*kitchen.quantize_nvfp4(numbers, scale), scale)


def unpack_nvfp4(packed: Packed, dtype: torch.dtype) -> torch.Tensor:
    values, scales, scale = packed
    with _kitchen() as kitchen:
        numbers: torch.Tensor = kitchen.dequantize_nvfp4(values, scale, scales, dtype)
    return numbers


def multiply_nvfp4(x: Packed, weights: Packed, dtype: torch.dtype) -> torch.Tensor:
    scales = {"tensor_scale_a": x[2], "tensor_scale_b": weights[2]}
    scales |= {"block_scale_a": x[1], "block_scale_b": weights[1]}
    with _kitchen() as kitchen:
        product: torch.Tensor = kitchen.scaled_mm_nvfp4(x[0], weights[0], **scales, out_dtype=dtype)
    return product


def pack_mxfp8(numbers: torch.Tensor) -> Packed:
    with _kitchen() as kitchen:
        return tuple(kitchen.quantize_mxfp8(numbers))


def unpack_mxfp8(packed: Packed, dtype: torch.dtype) -> torch.Tensor:
    with _kitchen() as kitchen:
        numbers: torch.Tensor = kitchen.dequantize_mxfp8(*packed, dtype)
    return numbers


def multiply_mxfp8(x: Packed, weights: Packed, dtype: torch.dtype) -> torch.Tensor:
    scales = {"block_scale_a": x[1], "block_scale_b": weights[1]}
    with _kitchen() as kitchen:
        product: torch.Tensor = kitchen.scaled_mm_mxfp8(x[0], weights[0], **scales, out_dtype=dtype)
    return product
