"""Attention in plain torch, by several paths with one result: which is fastest depends on the machine and the shape."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..memory.attention import weighted
from . import onednn

SCORES_BYTES_PER_THREAD = 1 << 20
"""A thread's share of one block of scores where the caller names no budget: what a core's L2 cache holds."""

_MARGIN = {torch.bfloat16: 8.5, torch.float32: 17.5}
"""sigmoid(x) differs from exp(x) by a factor 1 + exp(x): below -margin that is less than the dtype's rounding."""

_SPAN = 60.0
"""Largest bound on the logits for which exp(logit - bound - margin) stays a normal number for every key that counts."""


class AttentionPath(enum.Enum):
    """How softmax(q k^T) v is computed; the value is the name shown to users."""

    SDPA = "sdpa"
    """torch's fused kernel."""
    SOFTMAX = "softmax"
    """Matrix products and softmax, a block of queries at a time: no scores larger than the budget exist."""
    SIGMOID = "sigmoid"
    """Two oneDNN products with the exponential inside the first: see `_sigmoid`. bf16 and fp32 on the CPU, no mask."""


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None = None,
    *,
    path: AttentionPath = AttentionPath.SDPA,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    scale: float | None = None,
    budget_bytes: int | None = None,
) -> torch.Tensor:
    """softmax(q k^T * scale + mask) v in ComfyUI's layouts.

    Args:
        q, k, v: (batch, tokens, heads * dim), or (batch, heads, tokens, dim) with `skip_reshape`; k and v may have
            fewer heads than q, if their number divides it (grouped queries). Some of the host's models hand over
            k or v as (batch, tokens, heads, dim), which is taken for the first form.
        mask: boolean (True takes part) or added to the scores; (queries, keys), (batch, queries, keys) or
            (batch, heads, queries, keys), each but the last two broadcastable.
        scale: dim ** -0.5 where None.
        budget_bytes: the most that one block of scores may take; None: what fits the caches. SDPA manages its own
            memory and ignores it.

    Returns:
        (batch, tokens, heads * dim), or (batch, heads, tokens, dim) with `skip_output_reshape`, in q's dtype.
    """
    if not skip_reshape:
        dim = q.shape[-1] // heads
        q, k, v = (t.reshape(t.shape[0], t.shape[1], -1, dim).transpose(1, 2) for t in (q, k, v))
    if k.shape[1] != q.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = _four_dimensional(mask, q.dtype)
    budget_bytes = SCORES_BYTES_PER_THREAD * torch.get_num_threads() if budget_bytes is None else budget_bytes
    if path is AttentionPath.SIGMOID and not (mask is None and sigmoid_applies(q, k, v)):
        path = AttentionPath.SOFTMAX
    out = _PATHS[path](q, k, v, mask, scale, budget_bytes)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def sigmoid_applies(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    """Whether `SIGMOID` can take these tensors: one dtype it has a margin for, which oneDNN computes in here."""
    return (
        q.device.type == "cpu"
        and q.dtype in _MARGIN
        and q.dtype == k.dtype == v.dtype
        and onednn.linear_works(q.dtype)
        and not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad))
    )


def _four_dimensional(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    if mask is None:
        return None
    if mask.ndim < 4:
        mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
        mask = mask.unsqueeze(1)
    return mask if mask.dtype == torch.bool else mask.to(dtype)


def _sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float, budget_bytes: int
) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def _block_rows(keys: int, itemsize: int, budget_bytes: int) -> int:
    """Queries a block may hold: a power of two, so that equal shapes give equal blocks, and at least one."""
    rows = max(1, budget_bytes // max(1, keys * itemsize))
    return 1 << int(math.log2(rows))


def _softmax(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float, budget_bytes: int
) -> torch.Tensor:
    batch, heads, queries, _ = q.shape
    keys, width = v.shape[-2:]
    out = _empty_like_stock(q, width)
    if mask is not None:
        mask = mask.expand(batch, heads, queries, keys)
    itemsize = q.element_size() * (2 if mask is None else 3)
    together = batch * heads * queries * keys * itemsize <= budget_bytes
    if together:
        return out.copy_(weighted(q, k, v, mask, scale))
    rows = _block_rows(keys, itemsize, budget_bytes)
    for b in range(batch):
        for h in range(heads):
            for start in range(0, queries, rows):
                block = slice(start, start + rows)
                masked = None if mask is None else mask[b, h, block]
                out[b, h, block] = weighted(q[b, h, block], k[b, h], v[b, h], masked, scale)
    return out


def _empty_like_stock(q: torch.Tensor, width: int) -> torch.Tensor:
    """(batch, heads, tokens, width) over memory in the order (batch, tokens, heads, width): flattening is free."""
    batch, heads, tokens, _ = q.shape
    return q.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _sigmoid(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float, budget_bytes: int
) -> torch.Tensor:
    """Attention with the exponential fused into the first product.

    oneDNN applies a sigmoid to a product's fp32 accumulators, and sigmoid(x) is exp(x) for x far below zero. So each
    row's logits are shifted below -margin by an upper bound of the row (Cauchy-Schwarz: |q| max|k|) that travels as one
    more dimension of q and k; the shift cancels when the row is divided by its sum. Keys are centred first, which
    softmax does not see: then a row's mean logit is 0, its largest at least 0, and the bound cannot be off by more than
    itself. Heads whose bound exceeds `_SPAN` would underflow and go the softmax way.
    """
    margin = _MARGIN[q.dtype]
    width = v.shape[-1]
    keys = ((k.float() - k.float().mean(-2, keepdim=True)) * scale).to(k.dtype)
    bound = q.float().norm(dim=-1, keepdim=True) * keys.float().norm(dim=-1).amax(-1)[..., None, None]
    q_shifted = torch.cat((q, (-margin - bound).to(q.dtype)), dim=-1)
    k_shifted = torch.cat((keys, keys.new_ones(()).expand(*keys.shape[:-1], 1)), dim=-1)
    values, sum_inside = _values_with_ones(v)
    in_span = (bound.amax((-2, -1)) <= _SPAN).tolist()
    rows = _block_rows(k.shape[-2], q.element_size(), budget_bytes)
    out = _empty_like_stock(q, width)
    for b, h in ((b, h) for b in range(q.shape[0]) for h in range(q.shape[1])):
        if not in_span[b][h]:
            one = (slice(b, b + 1), slice(h, h + 1))
            out[one] = _softmax(q[one], k[one], v[one], None, scale, budget_bytes)
            continue
        for start in range(0, q.shape[-2], rows):
            weights = onednn.linear(q_shifted[b, h, start : start + rows], k_shifted[b, h], then="sigmoid")
            total = torch.mm(weights, values[b, h])
            sums = total[:, width : width + 1] if sum_inside else weights.sum(-1, keepdim=True)
            torch.div(total[:, :width], sums, out=out[b, h, start : start + rows])
    return out


def _values_with_ones(v: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """v padded to a whole number of 16-wide vectors, a column of ones in the padding; and whether there was room.

    The column makes the product with v return the row sums too. A head dim that fills its vectors keeps them: one more
    column would cost more than a separate sum.
    """
    width = v.shape[-1]
    spare = -width % 16
    if not spare:
        return v.contiguous(), False
    padded = v.new_zeros(*v.shape[:-1], width + spare)
    padded[..., :width] = v
    padded[..., width] = 1
    return padded, True


_Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "torch.Tensor | None", float, int], torch.Tensor]
_PATHS: dict[AttentionPath, _Kernel] = {
    AttentionPath.SDPA: _sdpa,
    AttentionPath.SOFTMAX: _softmax,
    AttentionPath.SIGMOID: _sigmoid,
}
