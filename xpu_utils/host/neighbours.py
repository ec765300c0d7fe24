"""Other packs and packages that work on what we work on, and who of us does what.

They are found by what they leave in the host or in PyTorch, never by a version or a folder's name. What follows for
each of our touches is said where the touch is; the questions that they ask are answered here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.ldm.modules.attention as host_attention
import torch

_KERNEL_NAMES = ("omnixpu", "esimd")
"""What OmniXPU registers its attention as, newest first."""

_KERNEL_HEAD_DIMS = (64, 128)
_HALVES = (torch.float16, torch.bfloat16)


def attention_kernel() -> Callable[..., Any] | None:
    """OmniXPU's attention as an override gets it, without the host's wrapper; None where it is not there."""
    registered = getattr(host_attention, "REGISTERED_ATTENTION_FUNCTIONS", {})
    function = next((registered[name] for name in _KERNEL_NAMES if name in registered), None)
    return getattr(function, "__wrapped__", function)


def attends_without_scores(
    function: Callable[..., Any], shape: Sequence[int], dtype: torch.dtype, given: Mapping[str, Any]
) -> bool:
    """Whether an attention function is another pack's whose kernel makes no tensor of scores for this call.

    Args:
        shape: of the queries: (batch, heads, queries, dim).
        given: the call's keywords. Whatever their kernel does not take goes to the host's function.
    """
    taken = shape[0] == 1 and shape[-1] in _KERNEL_HEAD_DIMS and dtype in _HALVES
    plain = given.get("mask") is None and not given.get("enable_gqa") and "scale" not in given
    return taken and plain and function is attention_kernel()
