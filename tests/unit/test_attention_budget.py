"""Attention within a byte budget: equal to the whole, no temporary above the budget."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from xpu_utils.memory.attention import (
    SCORE_BYTES,
    SMALLEST_BYTES,
    Attend,
    AttentionBudget,
    Chunks,
    attend_in_chunks,
    attend_in_fp32,
    budget_for,
    chunks_for,
)

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Largest difference to the whole for results of size about 1: some roundings of the dtype."""


class LargestOutput(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes; views make none."""

    def __init__(self) -> None:
        super().__init__()
        self.largest_bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        given = {t.untyped_storage().data_ptr() for t in arguments if isinstance(t, torch.Tensor)}
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.largest_bytes = max(self.largest_bytes, tensor.untyped_storage().nbytes())
        return result


def unfused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """torch's own attention where no kernel is fused; its temporaries are seen one by one."""
    shared = q.shape[1] // k.shape[1]
    return torch._scaled_dot_product_attention_math(q, k, v, attn_mask=mask, enable_gqa=shared > 1)[0]


@dataclasses.dataclass(frozen=True)
class Case:
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None
    """(queries, keys), (batch, queries, keys) or (batch, heads, queries, keys), some sizes 1."""

    def whole(self, attend: Attend = unfused) -> torch.Tensor:
        mask = self.mask
        if mask is not None and mask.ndim == 3:
            mask = mask.unsqueeze(1)
        return attend(self.q, self.k, self.v, mask)

    @property
    def least_bytes(self) -> int:
        """What one query of one kv head, and that head's keys, take."""
        shared, keys = self.q.shape[1] // self.k.shape[1], self.k.shape[2]
        return shared * keys * max(self.k.shape[3], 1) * SCORE_BYTES


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch, kv_heads, shared = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from((1, 1, 2)))
    heads = kv_heads * shared
    queries, keys, dim = draw(st.integers(1, 200)), draw(st.integers(1, 90)), draw(st.sampled_from((8, 40)))
    dtype = draw(st.sampled_from(list(TOLERANCE)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    mask = None
    kind = draw(st.sampled_from(("none", "boolean", "additive")))
    if kind != "none":
        leading = draw(st.sampled_from(((queries,), (batch, queries), (batch, heads, queries))))
        mask = random(*(size if draw(st.booleans()) else 1 for size in leading), keys)
    if kind == "boolean":
        mask = mask > 0
        mask[..., 0] = True  # a row without any key has no defined result
    q, k, v = random(batch, heads, queries, dim), random(batch, kv_heads, keys, dim), random(batch, kv_heads, keys, dim)
    return Case(q, k, v, mask)


@settings(max_examples=50, deadline=None)
@given(cases(), st.integers(1, 3_000_000))
def test_pieces_give_the_whole_and_no_temporary_exceeds_the_budget(case: Case, budget: int) -> None:
    budget = max(budget, case.least_bytes)
    with LargestOutput() as seen:
        chunks = chunks_for(case.q.shape, case.k.shape, budget)
        actual = attend_in_chunks(unfused, case.q, case.k, case.v, case.mask, chunks)
    torch.testing.assert_close(actual, case.whole(), atol=TOLERANCE[case.q.dtype], rtol=TOLERANCE[case.q.dtype])
    if chunks is not None:
        result_bytes = actual.numel() * actual.element_size()
        assert seen.largest_bytes <= max(budget, result_bytes)


@settings(max_examples=50, deadline=None)
@given(cases(), st.sampled_from((None, 0.3)))
def test_attention_by_products_gives_what_torch_s_own_gives(case: Case, scale: float | None) -> None:
    def torchs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)

    attend = functools.partial(attend_in_fp32, scale=scale)
    chunks = chunks_for(case.q.shape, case.k.shape, max(20_000, case.least_bytes))
    actual = attend_in_chunks(attend, case.q, case.k, case.v, case.mask, chunks)
    tolerance = 3 * TOLERANCE[case.q.dtype]  # two ways of summing, each some roundings off
    torch.testing.assert_close(actual, case.whole(torchs), atol=tolerance, rtol=tolerance)


def test_the_recorder_sees_the_scores_of_a_whole_call() -> None:
    q = torch.randn(1, 2, 256, 8)
    with LargestOutput() as seen:
        unfused(q, q, q, None)
    assert seen.largest_bytes == 2 * 256 * 256 * 4


def test_one_piece_is_exactly_the_plain_call() -> None:
    q = torch.randn(2, 3, 50, 8)
    assert chunks_for(q.shape, q.shape, 2 * 3 * 50 * 50 * SCORE_BYTES) is None
    answer = object()
    assert attend_in_chunks(lambda *_: answer, q, q, q, None, None) is answer  # type: ignore[arg-type,return-value]


def test_pieces_are_as_large_as_the_budget_allows() -> None:
    q = torch.empty(2, 8, 4096, 64, device="meta")
    row_bytes = 4096 * SCORE_BYTES
    assert chunks_for(q.shape, q.shape, 16 * 1024 * row_bytes) == Chunks(batch=2, heads=8, queries=1024)
    assert chunks_for(q.shape, q.shape, 16 * 64 * row_bytes) == Chunks(batch=2, heads=8, queries=64)
    assert chunks_for(q.shape, q.shape, 8 * 100 * row_bytes) == Chunks(batch=1, heads=8, queries=64)
    assert chunks_for(q.shape, q.shape, 3 * 64 * row_bytes) == Chunks(batch=1, heads=3, queries=64)
    assert chunks_for(q.shape, q.shape, 5 * row_bytes) == Chunks(batch=1, heads=1, queries=5)


def test_with_few_keys_the_queries_themselves_count() -> None:
    q, k = torch.empty(1, 1, 41, 40), torch.empty(1, 1, 1, 40)
    assert chunks_for(q.shape, k.shape, 10 * 40 * SCORE_BYTES) == Chunks(batch=1, heads=1, queries=10)


def test_a_mask_or_an_unknown_head_dim_needs_scores() -> None:
    budget = AttentionBudget(1 << 30, fused_head_dims=(64, 96, 128))
    assert not budget.needs_scores(64, None)
    assert budget.needs_scores(40, None)
    assert budget.needs_scores(64, torch.ones(1, 1, dtype=torch.bool))


def test_the_budget_follows_free_memory_and_the_single_allocation_limit() -> None:
    assert budget_for(8 << 30, None).temporary_bytes == 1 << 30
    assert budget_for(64 << 30, 4 << 30).temporary_bytes == 4 << 30
    assert budget_for(0, None).temporary_bytes == SMALLEST_BYTES
