"""Matrix products, convolutions and attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.sim.comparing import Function, check, check_or_refuse, numbers, to_xpu

# What is computed in fp32 and rounded: fp16, and bf16 where the CPU has no instructions for it.
ROUNDED = {torch.float16: 2e-3}
if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
    ROUNDED[torch.bfloat16] = 1.6e-2
NATIVE = tuple(dtype for dtype in (torch.float32, torch.bfloat16) if dtype not in ROUNDED)

MATRIX: dict[str, tuple[Function, tuple[tuple[int, ...], ...]]] = {
    "mm": (torch.mm, ((8, 16), (16, 4))),
    "mm of a transpose": (lambda a, b: a @ b.t(), ((8, 16), (4, 16))),
    "bmm": (torch.bmm, ((3, 8, 16), (3, 16, 4))),
    "addmm": (torch.addmm, ((4,), (8, 16), (16, 4))),
    "baddbmm": (lambda c, a, b: torch.baddbmm(c, a, b, beta=0.5, alpha=2), ((3, 8, 4), (3, 8, 16), (3, 16, 4))),
    "mv": (torch.mv, ((8, 16), (16,))),
    "dot": (torch.dot, ((64,), (64,))),
    "matmul broadcast": (torch.matmul, ((2, 3, 8, 16), (3, 16, 4))),
    "matmul folded": (torch.matmul, ((2, 8, 16), (16, 4))),
    "einsum": (lambda a, b: torch.einsum("b i d, b j d -> b i j", a, b), ((2, 8, 16), (2, 4, 16))),
    "linear": (F.linear, ((2, 8, 16), (4, 16), (4,))),
    "linear without bias": (F.linear, ((2, 8, 16), (4, 16))),
    "linear of a vector": (F.linear, ((16,), (4, 16), (4,))),
    "bilinear": (F.bilinear, ((8, 6), (8, 5), (4, 6, 5))),
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, padding=1), ((2, 4, 16), (8, 4, 3), (8,))),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), ((2, 4, 9, 9), (8, 4, 3, 3), (8,))),
    "conv2d strided": (lambda x, w: F.conv2d(x, w, stride=2), ((2, 4, 9, 9), (8, 4, 3, 3))),
    "conv2d grouped": (lambda x, w: F.conv2d(x, w, groups=2, dilation=2), ((2, 4, 9, 9), (8, 2, 3, 3))),
    "conv2d pointwise": (F.conv2d, ((2, 4, 9, 9), (8, 4, 1, 1))),
    "conv2d channels_last": (
        lambda x, w: F.conv2d(x.to(memory_format=torch.channels_last), w),
        ((2, 4, 9, 9), (8, 4, 3, 3)),
    ),
    "conv3d": (lambda x, w: F.conv3d(x, w, padding=1), ((1, 4, 5, 6, 7), (8, 4, 3, 3, 3))),
    "conv_transpose2d": (lambda x, w: F.conv_transpose2d(x, w, stride=2), ((2, 4, 5, 5), (4, 8, 3, 3))),
    "sdpa": (F.scaled_dot_product_attention, ((2, 4, 10, 16), (2, 4, 12, 16), (2, 4, 12, 16))),
    "sdpa with a mask": (F.scaled_dot_product_attention, ((2, 4, 10, 16), (2, 4, 12, 16), (2, 4, 12, 16), (10, 12))),
    "sdpa causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), ((1, 2, 8, 8),) * 3),
    "sdpa scaled": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3), ((1, 2, 8, 8),) * 3),
    "sdpa of transposed": (
        lambda q, k, v: F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))),
        ((2, 10, 4, 16),) * 3,
    ),
    "sdpa grouped": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        ((1, 4, 8, 8), (1, 2, 8, 8), (1, 2, 8, 8)),
    ),
    "multi-head": (lambda x: F.softmax(x @ x.transpose(-1, -2), -1) @ x, ((2, 8, 6, 10),)),
    "cdist": (torch.cdist, ((5, 4), (6, 4))),
    "outer": (torch.outer, ((5,), (6,))),
}


@pytest.mark.parametrize("dtype", NATIVE, ids=str)
@pytest.mark.parametrize("name", MATRIX)
def test_matrix(name: str, dtype: torch.dtype) -> None:
    function, shapes = MATRIX[name]
    if name == "cdist" and dtype is not torch.float32:
        dtype = torch.float64  # neither the CPU nor XPU has it in bf16
    check(function, *(numbers(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)))


@pytest.mark.parametrize("dtype", ROUNDED, ids=str)
@pytest.mark.parametrize("name", [name for name in MATRIX if name != "cdist"])
def test_matrix_is_fp32_rounded(name: str, dtype: torch.dtype) -> None:
    function, shapes = MATRIX[name]
    inputs = [numbers(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    result = function(*to_xpu(inputs))
    assert result.dtype == dtype
    exact = function(*(x.float() for x in inputs))
    torch.testing.assert_close(result.cpu().float(), exact, rtol=ROUNDED[dtype], atol=ROUNDED[dtype])


@pytest.mark.parametrize("name", ["mm", "bmm", "addmm", "matmul folded", "linear", "conv2d", "sdpa", "einsum"])
def test_matrix_of_nothing(name: str) -> None:
    function, shapes = MATRIX[name]
    first, *others = (numbers(*shape) for shape in shapes)
    if name == "addmm":
        others[0] = others[0][:0]
    elif name in ("bmm", "einsum", "sdpa"):
        first, others = first[:0], [other[:0] for other in others]
    else:
        first = first[:0]
    check_or_refuse(function, first, *others)
