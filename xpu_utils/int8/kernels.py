"""An int8 product in two kernels: one quantises a token, and the sums of the other never leave the card's registers.

Imported only where Triton is. Those of comfy-kitchen, which newer hosts bring, tune themselves again for each number of
tokens and lose a NaN; on a H200 its layers are slower than in bf16, and these are faster.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from .mixing import matrix, order

_ALIGNMENT = 16
"""Bytes, of each row: where a card's block loads can begin."""

_M, _N, _K = 128, 256, 128
"""A block of the product. Of six that were tried on a H200 the fastest for layers of Flux."""
_GROUP = 8
"""Blocks of so many rows follow each other, so that what they read is still in the cache."""


@triton.jit  # type: ignore[untyped-decorator]
def _quantise(x, mixing, values, scales, width, stride, GROUPS: tl.constexpr, ORDER: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, ORDER)
    columns = tl.arange(0, GROUPS)[:, None] * ORDER + channel[None, :]
    inside = columns < width
    given = tl.load(x + row * stride + columns, mask=inside, other=0.0)
    signs = tl.load(mixing + channel[:, None] * ORDER + channel[None, :])
    mixed = tl.dot(given, signs, input_precision="ieee")
    largest = tl.maximum(tl.max(tl.max(tl.abs(mixed), 1), 0), 1e-20)
    scaled = mixed * (127.0 / largest)
    rounded = tl.where(scaled < 0, scaled - 0.5, scaled + 0.5).to(tl.int8)
    tl.store(values + row * width + columns, rounded, mask=inside)
    tl.store(scales + row, largest / 127.0 + tl.sum(tl.sum(mixed * 0.0, 1), 0))  # what is not finite stays so


@triton.jit  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]
    tokens, weight, answer, token_scales, scales, bias, rows, columns, WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    block, across = tl.program_id(0), tl.cdiv(columns, N)
    first = block // (GROUP * across) * GROUP
    high = min(tl.cdiv(rows, M) - first, GROUP)
    top = (first + block % (GROUP * across) % high) * M
    left = block % (GROUP * across) // high * N
    sums = tl.zeros((M, N), dtype=tl.int32)
    for k in range(tl.cdiv(WIDTH, K)):  # beyond its edges a tensor reads as zeros
        sums = tl.dot(tokens.load([top, k * K]), weight.load([left, k * K]).T, sums, out_dtype=tl.int32)
    m, n = top + tl.arange(0, M), left + tl.arange(0, N)
    of_tokens = tl.load(token_scales + m, mask=m < rows, other=0.0)
    result = sums.to(tl.float32) * of_tokens[:, None] * tl.load(scales + n, mask=n < columns, other=0.0)[None, :]
    if HAS_BIAS:
        result += tl.load(bias + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
    where = answer + m.to(tl.int64)[:, None] * columns + n[None, :]
    tl.store(where, result.to(answer.dtype.element_ty), mask=(m < rows)[:, None] & (n < columns)[None, :])


def fits(width: int) -> bool:
    """Whether `per_token` can mix so many channels: products of less than 16 are none of Triton's."""
    return width % _ALIGNMENT == 0


def takes(tokens: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether `product` can multiply these."""
    return not any(number % _ALIGNMENT for number in (tokens.shape[1], tokens.data_ptr(), values.data_ptr()))


def per_token(given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises (tokens, in), mixed: int8 values, and scales (tokens, 1) in fp32, not finite where a token is not."""
    if given.stride(1) != 1:
        given = given.contiguous()
    tokens, width = given.shape
    values = torch.empty((tokens, width), dtype=torch.int8, device=given.device)
    scales = torch.empty((tokens, 1), dtype=torch.float32, device=given.device)
    size = order(width)
    groups = max(_ALIGNMENT, triton.next_power_of_2(width // size))
    mixing = matrix(size, given.dtype, given.device)
    warps = 8 if groups * size >= 4096 else 4
    with torch.get_device_module(given.device).device(given.device):  # Triton's launch looks at no tensor's
        _quantise[(tokens,)](given, mixing, values, scales, width, given.stride(0), groups, size, num_warps=warps)
    return values, scales


def product(
    given: tuple[torch.Tensor, torch.Tensor],
    weight: tuple[torch.Tensor, torch.Tensor],
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """given W^T + bias of (tokens, in) and (out, in) in int8, both contiguous, with a scale a row: (tokens, out)."""
    (tokens, token_scales), (values, scales) = given, weight
    (rows, width), columns = tokens.shape, len(values)
    answer = torch.empty((rows, columns), dtype=dtype, device=tokens.device)
    blocks = triton.cdiv(rows, _M) * triton.cdiv(columns, _N)
    left, right = TensorDescriptor.from_tensor(tokens, [_M, _K]), TensorDescriptor.from_tensor(values, [_N, _K])
    given_bias = scales if bias is None else bias
    with torch.get_device_module(tokens.device).device(tokens.device):
        _multiply[(blocks,)](
            *(left, right, answer, token_scales, scales, given_bias, rows, columns, width, bias is not None),
            *(_M, _N, _K, _GROUP),
            num_stages=4,
            num_warps=8,
        )
    return answer
