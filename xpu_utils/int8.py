"""Linear layers in int8: weights with a scale for each output channel, inputs with one for each token."""

from __future__ import annotations

import torch
import torch.nn.functional as F

FEWEST_TOKENS = 32
"""Fewer are computed with floating-point weights: cuBLAS takes no 16, and it is reading the weights that costs then."""

_LARGEST = 126
"""Of an input, so that one that is rounded up in bf16 stays within int8."""


def scale_rows(out: int, width: int) -> int:
    """Rows of `width` bytes that hold `out` scales in fp32."""
    return -(-4 * out // width)


def pack(weight: torch.Tensor) -> torch.Tensor:
    """Quantises (out, in) to int8 (out + scale rows, in): below the values, the bytes of their scales.

    One plain tensor is what a host moves, patches, backs up and streams without knowing what it is. NaN stays NaN.
    """
    out, width = weight.shape
    values = weight.detach().float()
    scales = values.abs().amax(1).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
    packed = torch.zeros(out + scale_rows(out, width), width, dtype=torch.int8, device=weight.device)
    packed[:out] = (values / scales[:, None]).round_()
    unpacked(packed, out)[1].copy_(scales)
    return packed


def unpacked(packed: torch.Tensor, out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What `pack` made of a weight of `out` rows: values (out, in), and scales (out,) in fp32."""
    return packed[:out], packed[out:].flatten()[: 4 * out].view(torch.float32)


def dequantised(packed: torch.Tensor, out: int, dtype: torch.dtype) -> torch.Tensor:
    """The weight (out, in) that `pack` was given, rounded."""
    values, scales = unpacked(packed, out)
    scales = scales.to(_between(dtype))
    return torch.mul(values, scales[:, None], out=torch.empty_like(values, dtype=dtype))


def _between(dtype: torch.dtype) -> torch.dtype:
    """What results in `dtype` are scaled in: fp16 has too few bits for small scales, and sums with one overflow it."""
    return torch.float32 if dtype == torch.float16 else dtype


def loss(weight: torch.Tensor, packed: torch.Tensor) -> float:
    """The error of a packed weight relative to the weight; NaN where that holds NaN."""
    given = weight.detach().float()
    difference = dequantised(packed, len(given), torch.float32).sub_(given)
    return float(difference.norm() / given.norm().clamp_min(torch.finfo(torch.float32).tiny))


def per_token(given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises (tokens, in): int8 values, and scales (tokens, 1) in fp32. What is not finite stays so by its scale."""
    if given.dtype == torch.float16:  # has no room for the inverse of a small scale
        given = given.float()
    largest = given.abs()
    if given.device.type == "cpu" and given.dtype == torch.bfloat16:  # ordered as integers are, which is faster
        largest = largest.view(torch.int16).amax(-1, keepdim=True).view(given.dtype)
    else:
        largest = largest.amax(-1, keepdim=True)
    inverse = _LARGEST / largest.clamp_min_(1e-20)
    return given.mul(inverse).round_().to(torch.int8), inverse.float().reciprocal_()


def linear(given: torch.Tensor, packed: torch.Tensor, out: int, bias: torch.Tensor | None) -> torch.Tensor:
    """given W^T + bias in int8, (..., in) to (..., out), in the dtype of `given`.

    Args:
        packed: W as `pack` made it; both sides divisible by 8.

    Raises:
        RuntimeError: the device has no such product.
    """
    answer = product(per_token(given.flatten(0, -2)), unpacked(packed, out), given.dtype, bias)
    return answer.unflatten(0, given.shape[:-1])


def product(
    given: tuple[torch.Tensor, torch.Tensor],
    weight: tuple[torch.Tensor, torch.Tensor],
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """given W^T + bias of what `per_token` and `unpacked` answer, (tokens, out); raises as `linear` does."""
    tokens, token_scales = given
    values, scales = weight
    sums = torch._int_mm(tokens, values.t())
    between = _between(dtype)
    scaled = torch.mul(sums, token_scales, out=torch.empty_like(sums, dtype=between))
    scales = scales.to(between)
    answer = scaled.mul_(scales) if bias is None else torch.addcmul(bias.to(between), scaled, scales)
    return answer.to(dtype)


def linear_by_floats(given: torch.Tensor, packed: torch.Tensor, out: int, bias: torch.Tensor | None) -> torch.Tensor:
    """As `linear`, but for the inputs, which stay as they are."""
    return F.linear(given, dequantised(packed, out, given.dtype), bias)
