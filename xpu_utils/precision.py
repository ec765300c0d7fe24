"""The names users give to number formats, and the torch dtypes behind them."""

from __future__ import annotations

import torch

from .choice import check_choice

FLOATS = ("fp32", "bf16", "fp16")
INT8 = "int8"
"""Weights and products; what is between the products stays in floats."""

PRECISIONS = ("auto", *FLOATS, INT8)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(name: object) -> None:
    """Refuses what is not the name of a precision; raises as `check_choice` does."""
    check_choice("precision", name, PRECISIONS)


def dtype_of(precision: str) -> torch.dtype | None:
    """The torch dtype of a precision name; None for "auto", and for "int8", beside which are floats of any."""
    return _DTYPES.get(precision)


def name_of(dtype: torch.dtype | None) -> str:
    """The precision name of a dtype ("bf16"), or torch's own name where users have no shorter one."""
    return next((name for name, known in _DTYPES.items() if known == dtype), str(dtype).removeprefix("torch."))
