"""Every attention path gives what the definition gives, within its dtype's rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xpu_utils.cpu.attention import AttentionPath, attention, sigmoid_applies

# Relative error (Euclidean norm) a path may have: a few roundings of its dtype.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """softmax(q k^T / sqrt(d) + mask) v by its definition, in fp64; (batch, heads, tokens, dim)."""
    scores = q.double() @ k.double().transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    return scores.softmax(-1) @ v.double()


def error(given: torch.Tensor, expected: torch.Tensor) -> float:
    return float((given.double() - expected).norm() / expected.norm())


def tensors(seed: int, batch: int, heads: int, queries: int, keys: int, dim: int, dtype: torch.dtype, size: float):
    generator = torch.Generator().manual_seed(seed)
    lengths = (queries, keys, keys)
    q, k, v = (torch.randn(batch, heads, length, dim, generator=generator) for length in lengths)
    return [(t * s).to(dtype) for t, s in ((q, size), (k, size), (v, 1.0))]


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(AttentionPath),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    queries=st.integers(1, 70),
    keys=st.integers(1, 90),
    dim=st.sampled_from([1, 8, 16, 40, 64, 80]),
    budget_bytes=st.sampled_from([None, 1, 4096]),
    seed=st.integers(0, 1000),
)
def test_paths_agree_with_the_definition(path, dtype, batch, heads, queries, keys, dim, budget_bytes, seed) -> None:
    q, k, v = tensors(seed, batch, heads, queries, keys, dim, dtype, 1.0)
    out = attention(q, k, v, heads, path=path, skip_reshape=True, skip_output_reshape=True, budget_bytes=budget_bytes)
    assert out.shape == q.shape
    assert out.dtype == dtype
    expected = reference(q, k, v)
    scale = max(float(expected.norm()), 0.3 * float(v.double().norm()) * (queries / keys) ** 0.5 / keys**0.5)
    assert float((out.double() - expected).norm()) <= TOLERANCE[dtype] * scale * 1.5


@pytest.mark.parametrize("path", AttentionPath)
@pytest.mark.parametrize("shape", [(5, 9), (2, 5, 9), (2, 1, 5, 9), (2, 3, 5, 9), (1, 1, 1, 9)])
@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize("budget_bytes", [None, 1])
def test_masks_of_every_shape_are_applied(
    path: AttentionPath, shape: tuple[int, ...], boolean: bool, budget_bytes
) -> None:
    q, k, v = tensors(3, 2, 3, 5, 9, 16, torch.float32, 1.0)
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    mask = (mask > -1) | (torch.arange(9) == 0) if boolean else mask * 3
    full = mask if mask.ndim == 4 else mask.unsqueeze(-3)
    out = attention(q, k, v, 3, mask, path=path, skip_reshape=True, skip_output_reshape=True, budget_bytes=budget_bytes)
    assert error(out, reference(q, k, v, full)) < 2e-5


@pytest.mark.parametrize("path", AttentionPath)
def test_layouts_are_comfyuis(path: AttentionPath) -> None:
    q, k, v = tensors(5, 2, 4, 7, 11, 24, torch.float32, 1.0)
    expected = reference(q, k, v).transpose(1, 2).flatten(2)
    flat = [t.transpose(1, 2).flatten(2) for t in (q, k, v)]
    assert error(attention(*flat, 4, path=path), expected) < 2e-5
    assert error(attention(q, k, v, 4, path=path, skip_reshape=True), expected) < 2e-5
    assert error(attention(flat[0], flat[1], v.transpose(1, 2), 4, path=path), expected) < 2e-5, "as Stable Diffusion 3"
    unflattened = attention(*flat, 4, path=path, skip_output_reshape=True)
    assert error(unflattened.transpose(1, 2).flatten(2), expected) < 2e-5


@pytest.mark.parametrize("path", AttentionPath)
def test_grouped_queries_share_keys(path: AttentionPath) -> None:
    q, _, _ = tensors(6, 1, 4, 7, 7, 16, torch.float32, 1.0)
    _, k, v = tensors(7, 1, 2, 7, 7, 16, torch.float32, 1.0)
    out = attention(q, k, v, 4, path=path, skip_reshape=True, skip_output_reshape=True)
    assert error(out, reference(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))) < 2e-5


@pytest.mark.parametrize("path", AttentionPath)
def test_scale_replaces_the_default(path: AttentionPath) -> None:
    q, k, v = tensors(8, 1, 2, 6, 6, 16, torch.float32, 1.0)
    out = attention(q, k, v, 2, path=path, skip_reshape=True, skip_output_reshape=True, scale=0.5)
    assert error(out, reference(q * 2, k, v)) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 0.1, 1.0, 2.5, 6.0, 40.0])
def test_the_sigmoid_path_holds_for_logits_of_any_size(dtype: torch.dtype, size: float) -> None:
    """From uniform attention to one key alone: past its span a head takes the softmax way."""
    q, k, v = tensors(9, 1, 2, 64, 128, 40, dtype, size)
    k += 3 * size  # keys with a common part, as in trained models
    out = attention(q, k, v, 2, path=AttentionPath.SIGMOID, skip_reshape=True, skip_output_reshape=True)
    assert torch.isfinite(out).all()
    softmax = attention(q, k, v, 2, path=AttentionPath.SOFTMAX, skip_reshape=True, skip_output_reshape=True)
    expected = reference(q, k, v)
    assert error(out, expected) <= max(TOLERANCE[dtype], 1.1 * error(softmax, expected))


def test_centred_keys_keep_large_common_parts_out_of_the_rounding() -> None:
    """A part that all keys share does not change attention, but in bf16 its scores would drown the rest."""
    q, k, v = tensors(10, 1, 1, 64, 256, 40, torch.bfloat16, 1.0)
    k = k + 8
    expected = reference(q, k, v)
    paths = [attention(q, k, v, 1, path=path, skip_reshape=True, skip_output_reshape=True) for path in AttentionPath]
    by_path = dict(zip(AttentionPath, (error(out, expected) for out in paths), strict=True))
    if sigmoid_applies(q, k, v):
        assert by_path[AttentionPath.SIGMOID] < by_path[AttentionPath.SOFTMAX]
    else:  # a CPU that emulates bf16 goes the softmax way
        assert by_path[AttentionPath.SIGMOID] == by_path[AttentionPath.SOFTMAX]


def test_blocks_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    matmul = torch.matmul

    def watched(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        product = matmul(left, right)
        if product.shape[-1] == 512:
            largest = max(largest, product.numel() * product.element_size())
        return product

    monkeypatch.setattr(torch, "matmul", watched)
    q, k, v = tensors(11, 1, 2, 300, 512, 16, torch.float32, 1.0)
    attention(q, k, v, 2, path=AttentionPath.SOFTMAX, skip_reshape=True, budget_bytes=64 << 10)
    assert 0 < largest <= 64 << 10
