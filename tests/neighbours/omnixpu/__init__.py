"""Stands in for OmniXPU: its own attention in the host's place, for batch 1, half formats and two head dims.

All else it gives to the host's function, as it was given.
"""

from __future__ import annotations

import sys
from typing import Any

import comfy.ldm.modules.attention as host_attention
import torch
import torch.nn.functional as F

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

HEAD_DIMS = (64, 128)
NAMES = ("optimized_attention", "optimized_attention_masked")

kernel_calls: list[tuple[int, ...]] = []
"""The shapes of the queries that the kernel was called with."""

_stock = {name: getattr(host_attention, name) for name in NAMES}


@host_attention.wrap_attn
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **given: Any,
) -> torch.Tensor:
    """The host's attention, by the kernel where it takes the call."""
    dim = q.shape[-1] if skip_reshape else q.shape[-1] // heads
    plain = mask is None and "scale" not in given and not given.get("enable_gqa")
    half = q.dtype in (torch.float16, torch.bfloat16)
    if len(q) != 1 or dim not in HEAD_DIMS or not plain or not half or q.device.type != "xpu":
        given |= {"attn_precision": attn_precision, "skip_reshape": skip_reshape}
        answer: torch.Tensor = host_attention.attention_pytorch(
            q, k, v, heads, mask=mask, skip_output_reshape=skip_output_reshape, **given
        )
        return answer
    if not skip_reshape:
        q, k, v = (t.unflatten(-1, (heads, dim)).transpose(1, 2) for t in (q, k, v))
    kernel_calls.append(tuple(q.shape))
    out = torch.empty_like(q) if q.is_meta else F.scaled_dot_product_attention(q, k, v)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


for module in list(sys.modules.values()):
    for name in NAMES:
        if vars(module).get(name) in _stock.values() if hasattr(module, "__dict__") else False:
            setattr(module, name, attention)
host_attention.register_attention_function("omnixpu", attention)
