"""oneDNN's linear layer, through the operator that PyTorch's own compiler uses for it."""

from __future__ import annotations

import functools
from typing import Literal

import torch


def linear(
    given: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    then: Literal["none", "sigmoid", "gelu"] = "none",
    times: torch.Tensor | None = None,
) -> torch.Tensor:
    """given weight^T + bias, (..., in) and (out, in) to (..., out), with what follows done on the fp32 sums.

    Args:
        then: a function of the sums; gelu is the one with the error function.
        times: what the sums are multiplied with instead, of the result's shape.

    Raises:
        RuntimeError: this CPU or build cannot do it in the dtype: ask `linear_works` first.
    """
    if times is None:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(given, weight, bias, then, [], "none")
    else:
        result = torch.ops.mkldnn._linear_pointwise.binary(given, times, weight, bias, "mul")
    return result


def linear_works(dtype: torch.dtype) -> bool:
    """Whether `linear` computes in this dtype here.

    Not while PyTorch's compiler looks on: it knows the operator only as what it makes of linear layers itself.
    """
    return not torch.compiler.is_compiling() and _linear_works(dtype)


@functools.lru_cache(maxsize=8)
def _linear_works(dtype: torch.dtype) -> bool:
    """Tried out, as oneDNN can be told to use fewer instructions."""
    if not torch.backends.mkldnn.is_available():
        return False
    ones = torch.ones(2, 2, dtype=dtype)
    try:
        return bool((linear(ones, ones) == 2).all())
    except (RuntimeError, AttributeError):  # no primitive for the dtype; a build without the operator
        return False
