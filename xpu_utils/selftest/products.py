"""Does a device multiply in the formats that weights are stored in, rightly, and faster than in what they stand for?

Checked on simulated XPUs and on CUDA, never on Intel hardware.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from .. import int8
from ..int8.mixing import mixed
from ..machine.devices import Device
from ..machine.timing import median_seconds
from ..recovery.faults import first_line
from . import blocks
from .blocks import Packed
from .operations import TOLERANCES

CHECKED = (32, 256, 256)
"""Rows of activations, inner size, columns: what the processor has to compute as well."""
TIMED = (4096, 3072, 3072)
"""A layer of Flux at 1024x1024; the times are of this, ..."""
HOPELESS = 10
"""... or of the other where that product is already so many times slower: emulated fp8 would take minutes."""
SHORTEST_SECONDS = 0.05
"""What a time is taken from at least; a prompt waits for it."""
_QUEUED = 8
"""Calls that a card is given at a time, as by a network: of one alone, the way there is much of the time."""
_TOLERANCE = TOLERANCES["bf16"]


class Way(enum.Enum):
    """What a device does with weights in a format; the value is what users are told."""

    NATIVE = "native"
    """It multiplies in the format."""
    EMULATED = "emulated"
    """The weights are kept in it, and computed with in what they stand for."""
    REFUSED = "refused"
    """Not even that comes out right there."""


@dataclasses.dataclass(frozen=True)
class Product:
    """What came of one format on one device."""

    format: str
    unpack_problem: str = ""
    """Why what the weights stand for does not come out right; empty where it does."""
    relative_error: float | None = None
    """Of its own product, against the processor's of the same numbers; None where there is none."""
    seconds: float | None = None
    """Of its own product, the rounding of the activations included."""
    unpacked_seconds: float | None = None
    """Of the product of what the weights stand for, in 16 bits, the unpacking included."""
    problem: str = ""
    """Why it has no product of its own."""

    @property
    def right(self) -> bool:
        return self.relative_error is not None and self.relative_error <= _TOLERANCE

    @property
    def share(self) -> float | None:
        """Its time, as a share of that of the product of what the weights stand for."""
        return self.seconds / self.unpacked_seconds if self.seconds and self.unpacked_seconds else None

    @property
    def way(self) -> Way:
        if self.unpack_problem:
            return Way.REFUSED
        return Way.NATIVE if self.right and self.share is not None and self.share < 1 else Way.EMULATED

    def __str__(self) -> str:
        why = self.unpack_problem or self.problem
        if not why and not self.right:
            why = f"its own product is wrong by {self.relative_error:.2g}"
        elif not why:
            why = f"its own product takes {self.share:.0%} of the time"
        return f"{self.format} {self.way.value} ({why})"


@dataclasses.dataclass(frozen=True)
class _Format:
    pack: Callable[[torch.Tensor], Packed]
    """Weights (columns, inner)."""
    unpack: Callable[[Packed, torch.dtype], torch.Tensor]
    round: Callable[[torch.Tensor], Packed] | None = None
    """Activations (rows, inner), as ComfyUI rounds them; None where there is no product in this format."""
    multiply: Callable[[Packed, Packed, torch.dtype], torch.Tensor] | None = None
    """Rounded activations and packed weights to (rows, columns)."""
    turn: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.detach
    """What activations go through before they meet unpacked weights."""
    timed: tuple[int, int, int] = TIMED
    """As `TIMED`."""


def _pack(numbers: torch.Tensor, *, dtype: torch.dtype) -> Packed:
    """To the format's whole range, by one scale."""
    largest = torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max
    scale = (numbers.abs().amax().float() / largest).clamp_min(1e-12)
    scaled = numbers / scale
    return (scaled if dtype.is_floating_point else scaled.round()).clamp(-largest, largest).to(dtype), scale


def _unpack(packed: Packed, dtype: torch.dtype) -> torch.Tensor:
    numbers, scale = packed
    return numbers.to(dtype) * scale.to(dtype)


def _cut(numbers: torch.Tensor, *, dtype: torch.dtype) -> Packed:
    """As they are, what is beyond the format's range cut off: files without a scale for activations have this done."""
    largest = torch.finfo(dtype).max
    return numbers.clamp(-largest, largest).to(dtype), torch.ones((), device=numbers.device)


def _pack_nibbles(numbers: torch.Tensor) -> Packed:
    """Two numbers of 4 bits a byte, as w4a8 and GGUF's formats have them."""
    scale = (numbers.abs().amax().float() / 7).clamp_min(1e-12)
    values = ((numbers / scale).round() + 8).clamp(0, 15).to(torch.uint8)
    return values[:, ::2] << 4 | values[:, 1::2], scale


def _unpack_nibbles(packed: Packed, dtype: torch.dtype) -> torch.Tensor:
    numbers, scale = packed
    values = torch.stack((numbers >> 4, numbers & 15), -1).flatten(-2)
    return (values.to(dtype) - 8) * scale.to(dtype)


def _multiply_int8(x: Packed, weights: Packed, dtype: torch.dtype) -> torch.Tensor:
    return (torch._int_mm(x[0], weights[0].t()).float() * (x[1] * weights[1])).to(dtype)


def _multiply_fp8(x: Packed, weights: Packed, dtype: torch.dtype) -> torch.Tensor:
    """By the function that comfy-kitchen takes: newer PyTorch has another, which not every device has as well."""
    newer: Any = getattr(F, "scaled_mm", None)
    if newer is None:
        return torch._scaled_mm(x[0], weights[0].t(), scale_a=x[1], scale_b=weights[1], out_dtype=dtype)
    one_scale = F.ScalingType.TensorWise
    product: torch.Tensor = newer(x[0], weights[0].t(), x[1], one_scale, weights[1], one_scale, output_dtype=dtype)
    return product


def _fp8(dtype: torch.dtype) -> _Format:
    return _Format(functools.partial(_pack, dtype=dtype), _unpack, functools.partial(_cut, dtype=dtype), _multiply_fp8)


def _pack_channels(numbers: torch.Tensor, *, columns: bool) -> Packed:
    """A scale for each column of the product, as layers are held in int8."""
    values, scales = int8.unpacked(int8.pack(numbers, columns=columns), len(numbers), columns=columns)
    return values, scales[:, None]


def _multiply_channels(x: Packed, weights: Packed, dtype: torch.dtype) -> torch.Tensor:
    return int8.product((x[0], x[1]), (weights[0], weights[1].flatten()), dtype)


HELD_IN_INT8 = "int8 by channel"
"""What `precision=int8` holds weights in; there is no file of it."""
_FEW_INPUTS, _FEW_OUTPUTS = 512, 1024
"""Up to so many channels, scaling the results or quantising the inputs may take longer than int8 saves."""
_LARGE = 1 << 24
"""Weights of a layer that has enough to compute for any passes beside the product."""
_SIZES = {"": (3072, 3072), " of few": (320, 2560), " to few": (2560, 640), " (large)": (3072, 12288)}
"""Channels in and out that stand for layers of a size."""


def held_in_int8(inputs: int = 3072, outputs: int = 3072) -> str:
    """The format of a layer that `precision=int8` holds, by its channels."""
    if inputs <= _FEW_INPUTS:
        return f"{HELD_IN_INT8} of few"
    if outputs <= _FEW_OUTPUTS:
        return f"{HELD_IN_INT8} to few"
    return f"{HELD_IN_INT8} (large)" if inputs * outputs >= _LARGE else HELD_IN_INT8


def _held(tokens: int, *, columns: bool) -> dict[str, _Format]:
    """Of each size."""
    pack = functools.partial(_pack_channels, columns=columns)
    form = _Format(pack, _unpack, int8.per_token, _multiply_channels, mixed)
    return {
        f"{HELD_IN_INT8}{size}": dataclasses.replace(form, timed=(tokens, *channels))
        for size, channels in _SIZES.items()
    }


_INT8 = functools.partial(_pack, dtype=torch.int8)
_BLOCKS = {
    "nvfp4": _Format(blocks.pack_nvfp4, blocks.unpack_nvfp4, blocks.pack_nvfp4, blocks.multiply_nvfp4),
    "mxfp8": _Format(blocks.pack_mxfp8, blocks.unpack_mxfp8, blocks.pack_mxfp8, blocks.multiply_mxfp8),
}
FORMATS: Mapping[str, _Format] = {
    "fp8_e4m3": _fp8(torch.float8_e4m3fn),
    "fp8_e5m2": _fp8(torch.float8_e5m2),
    "int8": _Format(_INT8, _unpack, _INT8, _multiply_int8),
    **_held(4096, columns=False),
    **(_BLOCKS if blocks.INSTALLED else {}),
    "4 bits": _Format(_pack_nibbles, _unpack_nibbles),
}
"""By the name that users are told."""
_ON_CPUS = _held(1024, columns=True)
"""Laid out as a CPU reads them; so few tokens tell as much there."""

_FAILURES = (RuntimeError, TypeError, ValueError, AttributeError)
"""What PyTorch and comfy-kitchen raise for a missing kernel or format."""


def check_product(device: Device, name: str, *, compute: torch.dtype = torch.bfloat16) -> Product:
    """Multiplies in a format on a device, and compares with the processor's product of the same numbers.

    Args:
        compute: what the weights stand for is computed in.
    """
    form, target = FORMATS[name], device.torch_device
    if device.type == "cpu":
        form = _ON_CPUS.get(name, form)
    x, weights = _drawn(CHECKED)
    try:
        packed = form.pack(weights)
        plain = form.unpack(packed, torch.float32)
        x_there, packed_there = x.to(target, compute), _to(packed, target)  # nothing is packed there
        wrong = _error(form.unpack(packed_there, compute), plain)
    except _FAILURES as failure:
        return Product(name, unpack_problem=first_line(failure)[:200])
    if wrong > _TOLERANCE:
        return Product(name, unpack_problem=f"what its bytes stand for is wrong by {wrong:.2g}")
    if form.round is None or form.multiply is None:
        return Product(name, problem="there is no product in this format")
    expected = form.unpack(form.round(x.to(compute)), torch.float32) @ plain.T
    try:
        error = _error(form.multiply(form.round(x_there), packed_there, compute), expected)
        seconds, unpacked_seconds = _times(device, form, x_there, packed_there)
        if seconds < HOPELESS * unpacked_seconds:
            x, weights = _drawn(form.timed)
            seconds, unpacked_seconds = _times(device, form, x.to(target, compute), _to(form.pack(weights), target))
    except _FAILURES as failure:
        return Product(name, problem=first_line(failure)[:200])
    return Product(name, relative_error=error, seconds=seconds, unpacked_seconds=unpacked_seconds)


def _to(packed: Packed, device: torch.device) -> Packed:
    return tuple(tensor.to(device) for tensor in packed)


def _drawn(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations, and weights that keep their size; the first of each show sums that are cut off at 16 bits."""
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(columns, inner, generator=generator) / inner**0.5
    x = torch.randn(rows, inner, generator=generator)
    weights[0], x[0] = inner**-0.5, torch.tensor([1.0, 1, -1, -1]).repeat(inner // 4)
    return x, weights


def _times(device: Device, form: _Format, x: torch.Tensor, packed: Packed) -> tuple[float, float]:
    """Of the format's own product with the rounding, and of that of what the weights stand for with the unpacking."""

    def own() -> object:
        return form.round and form.multiply and form.multiply(form.round(x), packed, x.dtype)

    def unpacked() -> object:
        return F.linear(form.turn(x), form.unpack(packed, x.dtype))

    calls = 1 if device.type == "cpu" else _QUEUED

    def seconds(way: Callable[[], object]) -> float:
        return median_seconds(lambda: [way() for _ in range(calls)], device, shortest_seconds=SHORTEST_SECONDS) / calls

    return seconds(own), seconds(unpacked)


def _error(answer: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest value; infinite where the answer is not finite."""
    answer = answer.float().cpu()
    if not bool(answer.isfinite().all()):
        return float("inf")
    return float((answer - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
