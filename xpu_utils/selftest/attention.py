"""How a device attends fastest to shapes of one class: PyTorch's own attention, or products and a softmax.

Where there is no fused kernel (Arc A), PyTorch's own computes the half formats in fp32; products in the tensors' own
format have the matrix units.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

from ..machine.timing import best_seconds, fastest
from ..memory.attention import attend_by_products, chunks_for
from ..precision import dtype_of
from .operations import Result, compared

PRECISIONS = ("bf16", "fp16")
"""fp32 is what the others are compared with: there is nothing to gain but rounding of its own."""

LEAST_WORK = 2 << 30
"""Operations of a call below which no other way can save what is worth a measurement: a tenth of a millisecond."""

LONGEST = (128, 512, 2048, 1 << 30)
"""Keys that a class of shapes has at most: a text's, then pictures' by size."""

_MOST_BYTES = 256 << 20
"""Scores that are measured with: more fill no device better, and take longer."""

_SPREAD = 2.0
"""The checked logits' standard deviation is its square: as trained models have them, some keys matter far more."""


class Attending(enum.Enum):
    """A way for an accelerator to attend; the value is the name shown to users, the plainest comes first."""

    OWN = "PyTorch's own"
    FP32_SCORES = "products with fp32 scores"
    PRODUCTS = "products"


ATTEND: dict[Attending, Callable[..., torch.Tensor]] = {
    Attending.OWN: lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    Attending.FP32_SCORES: functools.partial(attend_by_products, fp32_scores=True),
    Attending.PRODUCTS: attend_by_products,
}


@dataclasses.dataclass(frozen=True)
class ShapeClass:
    """What is attended to: the result holds for every shape of the class."""

    head_dim: int
    precision: str
    keys_up_to: int
    masked: bool

    def __str__(self) -> str:
        keys = f"up to {self.keys_up_to} keys" if self.keys_up_to < LONGEST[-1] else "more keys"
        return f"head dim {self.head_dim}, {self.precision}, {keys}{', masked' if self.masked else ''}"


@dataclasses.dataclass(frozen=True)
class AttentionTimes:
    """The ways that attend rightly to shapes of a class, and how long one call took."""

    shapes: ShapeClass
    seconds: Mapping[Attending, float]

    @property
    def fastest(self) -> Attending:
        return list(self.seconds)[fastest(list(self.seconds.values()))]

    def __str__(self) -> str:
        times = ", ".join(f"{way.value} {seconds * 1000:.2g} ms" for way, seconds in self.seconds.items())
        return f"{self.shapes}: {times}"


def class_of(q_shape: Sequence[int], k_shape: Sequence[int], precision: str, *, masked: bool) -> ShapeClass | None:
    """The class of a call; None where it is not worth measuring.

    Args:
        q_shape, k_shape: (batch, heads, tokens, dim).
    """
    work = 4 * math.prod(q_shape) * k_shape[2]
    if precision not in PRECISIONS or work < LEAST_WORK:
        return None
    keys_up_to = next(longest for longest in LONGEST if k_shape[2] <= longest)
    return ShapeClass(q_shape[3], precision, keys_up_to, masked)


def measure_attention(
    device: str, shapes: ShapeClass, q_shape: Sequence[int], k_shape: Sequence[int], most_bytes: int
) -> AttentionTimes | Result:
    """Times every way that is right, on a part of the call that has scores of so many bytes at most.

    Returns:
        A result with its problem where PyTorch's own fails: memory may be full at the moment.
    """
    ways = [way for way in Attending if way is Attending.OWN or _check(device, way, shapes).right]
    dtype = dtype_of(shapes.precision)
    chunks = chunks_for(q_shape, k_shape, min(most_bytes, _MOST_BYTES))
    batch, heads, queries = (
        (q_shape[0], k_shape[1], q_shape[2]) if chunks is None else (chunks.batch, chunks.heads, chunks.queries)
    )
    shared = q_shape[1] // k_shape[1]
    try:
        with torch.inference_mode():
            sizes = (queries, k_shape[2], k_shape[2])
            q, k, v = (_random(batch, heads * shared, tokens, q_shape[3]).to(device, dtype) for tokens in sizes)
            mask = torch.zeros(1, 1, queries, k_shape[2], dtype=dtype, device=device) if shapes.masked else None
            calls = [functools.partial(ATTEND[way], q, k, v, mask) for way in ways]
            seconds = best_seconds(calls, clock=functools.partial(_when_done, torch.device(device)))
    except (RuntimeError, NotImplementedError) as error:
        return Result(str(shapes), shapes.precision, None, str(error))
    return AttentionTimes(shapes, dict(zip(ways, seconds, strict=True)))


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))  # the process's own are a sampler's


def _when_done(device: torch.device) -> float:
    torch.get_device_module(device.type).synchronize(device)
    return time.perf_counter()


def _check(device: str, way: Attending, shapes: ShapeClass) -> Result:
    """Compares a way with the processor's fp32, where few of many keys matter."""
    given = _random(3, 2, 256, shapes.head_dim).split(1)
    q, k, v = (t.mul(size).to(dtype_of(shapes.precision)) for t, size in zip(given, (_SPREAD, _SPREAD, 1), strict=True))
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return compared(
        way.value, shapes.precision, lambda: ATTEND[way](q.to(device), k.to(device), v.to(device), None), expected
    )
