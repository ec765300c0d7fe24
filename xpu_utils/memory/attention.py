"""Attention in pieces, so that no temporary is larger than a number of bytes; pure torch, around any attention."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import torch

SCORE_BYTES = 4
"""One score of unfused attention: torch computes the half formats in fp32 (`_scaled_dot_product_attention_math`)."""

SMALLEST_BYTES = 32 << 20
"""No budget is smaller: below this the pieces are so narrow that the device idles, and other temporaries dominate."""

FREE_SHARE = 8
"""A budget is this part of the free memory: unfused attention holds up to three temporaries of one size (scores,
their softmax, a boolean mask made additive), and a model's other temporaries need room beside them."""

FEWEST_ROWS = 64
"""Heads are attended to together as long as each gets so many queries: a matrix unit's tile, several times over."""

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]
"""q, k, v (batch, heads, tokens, dim) and a mask to (batch, heads, queries, dim)."""


@dataclasses.dataclass(frozen=True)
class AttentionBudget:
    """What one attention call may take."""

    temporary_bytes: int
    """The most that any one temporary may take."""
    fused_head_dims: tuple[int, ...] = ()
    """Head dims for which the device attends without a tensor of scores, if there is no mask."""

    def needs_scores(self, head_dim: int, mask: torch.Tensor | None) -> bool:
        """Whether attention with this head dim and mask makes a tensor of scores."""
        return mask is not None or head_dim not in self.fused_head_dims


def budget_for(
    free_bytes: int,
    single_allocation_limit_bytes: int | None,
    *,
    fused_head_dims: tuple[int, ...] = (),
) -> AttentionBudget:
    """The budget on a device with so much free memory, none of whose allocations may exceed a limit."""
    share = max(SMALLEST_BYTES, free_bytes // FREE_SHARE)
    return AttentionBudget(min(share, single_allocation_limit_bytes or share), fused_head_dims)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """How much of a call is attended to at once."""

    batch: int
    heads: int
    """Heads of k and v; of q as many times more as share one."""
    queries: int


def chunks_for(q_shape: Sequence[int], k_shape: Sequence[int], temporary_bytes: int) -> Chunks | None:
    """The largest pieces whose scores, and whose copies of q, k and v, stay within the bytes; None for one piece.

    One query of one head, and the keys of one head, are the least there is: smaller budgets give these.

    Args:
        q_shape: (batch, heads, queries, dim).
        k_shape: (batch, kv heads, keys, dim); kv heads divide the heads.
    """
    batch, heads, queries, head_dim = q_shape
    _, kv_heads, keys, _ = k_shape
    shared = heads // kv_heads
    row_bytes = shared * max(keys, head_dim) * SCORE_BYTES  # its scores, or its copy in fp32
    if batch * kv_heads * queries * row_bytes <= temporary_bytes:
        return None
    head_bytes = max(shared * keys * head_dim * SCORE_BYTES, min(FEWEST_ROWS, queries) * row_bytes)
    together = max(1, min(batch * kv_heads, temporary_bytes // head_bytes))
    at_once = (together // kv_heads, kv_heads) if together >= kv_heads else (1, together)
    rows = max(1, min(queries, temporary_bytes // (at_once[0] * at_once[1] * row_bytes)))
    if rows > FEWEST_ROWS:
        rows -= rows % FEWEST_ROWS
    return Chunks(*at_once, rows)


def attend_in_chunks(
    attend: Attend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, chunks: Chunks | None
) -> torch.Tensor:
    """What `attend` gives for the whole, within rounding, from calls for the pieces.

    Args:
        q: (batch, heads, queries, dim); k, v: (batch, kv heads, keys, dim).
        mask: boolean or additive; (queries, keys), (batch, queries, keys) or (batch, heads, queries, keys), every
            dimension but the keys' broadcastable.

    Returns:
        (batch, heads, queries, dim of v), lying in memory as (batch, queries, heads, dim).
    """
    mask = _four_dimensional(mask)
    if chunks is None:
        return attend(q, k, v, mask)
    batch, heads, queries, _ = q.shape
    kv_heads = k.shape[1]
    shared = heads // kv_heads
    out = q.new_empty(batch, queries, heads, v.shape[-1]).transpose(1, 2)
    for b, h, row in itertools.product(
        range(0, batch, chunks.batch), range(0, kv_heads, chunks.heads), range(0, queries, chunks.queries)
    ):
        some = (slice(b, b + chunks.batch), slice(h, h + chunks.heads))
        piece = (some[0], slice(h * shared, (h + chunks.heads) * shared), slice(row, row + chunks.queries))
        out[piece] = attend(q[piece], k[some], v[some], None if mask is None else _mask_piece(mask, piece))
    return out


def attend_in_fp32(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, *, scale: float | None = None
) -> torch.Tensor:
    """Attention by products and a softmax in fp32, for devices whose own is wrong; as `attend_by_products` else."""
    return attend_by_products(q.float(), k.float(), v.float(), mask, scale=scale).to(q.dtype)


def attend_by_products(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scale: float | None = None,
    fp32_scores: bool = False,
) -> torch.Tensor:
    """Attention by two products and a softmax in the tensors' own format; shapes as `attend_in_chunks` has them.

    Args:
        scale: of the scores; the head dim's where none is given.
        fp32_scores: the first product gives fp32 and so is the softmax: nearer to the fused kernels' result.

    Raises:
        NotImplementedError: the device has no product from half formats to fp32.
    """
    shared = q.shape[1] // k.shape[1]
    if shared > 1:
        k, v = (t.repeat_interleave(shared, dim=1) for t in (k, v))
    return weighted(q, k, v, mask, scale or q.shape[-1] ** -0.5, fp32_scores=fp32_scores)


def weighted(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    *,
    fp32_scores: bool = False,
) -> torch.Tensor:
    """softmax(q k^T * scale + mask) v of tensors whose other dimensions are equal, the scores held as a whole."""
    product = _fp32_product if fp32_scores else torch.matmul
    scores = product(q * scale, k.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores.add_(mask)
    return torch.matmul(scores.softmax(-1).to(v.dtype), v)


def _fp32_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if "dtype" not in torch.ops.aten.bmm.overloads():
        raise NotImplementedError("this PyTorch has no such product")
    product: torch.Tensor = torch.ops.aten.bmm.dtype(left.flatten(0, 1), right.flatten(0, 1), torch.float32)
    return product.unflatten(0, left.shape[:2])


def _four_dimensional(mask: torch.Tensor | None) -> torch.Tensor | None:
    if mask is None or mask.ndim == 4:
        return mask
    return mask.unsqueeze(1) if mask.ndim == 3 else mask[None, None]


def _mask_piece(mask: torch.Tensor, piece: tuple[slice, ...]) -> torch.Tensor:
    whole = slice(None)
    return mask[tuple(whole if mask.shape[dim] == 1 else part for dim, part in enumerate(piece))]
