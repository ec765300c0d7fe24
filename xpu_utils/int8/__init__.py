"""Linear layers in int8: weights with a scale for each output channel, inputs with one for each token.

The channels in are mixed first, see `mixing`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..recovery.faults import LOSSES, NO_ROOM, classify
from .mixing import mixed, order

FEWEST_TOKENS = 32
"""Fewer are computed with floating-point weights: cuBLAS takes no 16, and it is reading the weights that costs then."""

_LARGEST = 126
"""Of an input, so that one that is rounded up in bf16 stays within int8."""

_PIECE = 1 << 17
"""Values that a thread of a CPU quantises at a time: what the passes write stays in its cache."""

_ONEDNN_WIDTH = 64
"""What its product with AMX needs a multiple of: some others (136, 200) come out wrong in version 3.12."""

_TRIED = ((64, torch.bfloat16), (80, torch.bfloat16), (128, torch.float16))
"""Widths, in larger and smaller groups than a block and of several, and formats, that Triton's kernels are tried in."""

Scaled = tuple[torch.Tensor, torch.Tensor]
"""Values in int8, (n, in), and their scales in fp32, one a row."""


def pack(weight: torch.Tensor, *, columns: bool = False) -> torch.Tensor:
    """Quantises (out, in) to int8, mixed: the values, and below them the bytes of their scales.

    One plain tensor is what a host moves, patches, backs up and streams without knowing what it is. NaN stays NaN.

    Args:
        columns: lays the values out as (in, out), of which a CPU's product is the fastest; else as (out, in).
    """
    out, width = weight.shape
    rows, across = (width, out) if columns else (out, width)
    pieces = map(_per_channel, weight.detach().split(_rows_of_a_piece(weight)))
    values, scales = map(torch.cat, zip(*pieces, strict=True))
    packed = torch.zeros(rows + -(-4 * out // across), across, dtype=torch.int8, device=weight.device)
    packed[:rows] = values.t() if columns else values
    unpacked(packed, out, columns=columns)[1].copy_(scales)
    return packed


def _per_channel(weight: torch.Tensor) -> Scaled:
    values = mixed(weight.float()).mul_(order(weight.shape[1]))
    scales = values.abs().amax(1).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
    return values.div_(scales[:, None]).round_().to(torch.int8), scales


def _rows_of_a_piece(values: torch.Tensor) -> int:
    """How many rows are worked on at a time."""
    on_cpu = values.device.type == "cpu"
    return max(1, _PIECE * torch.get_num_threads() // values.shape[1] if on_cpu else len(values))


def unpacked(packed: torch.Tensor, out: int, *, columns: bool = False) -> Scaled:
    """What `pack` made of a weight of `out` rows: values (out, in), mixed, and scales (out,)."""
    rows = len(packed) - 4 if columns else out
    values = packed[:rows]
    scales = packed[rows:].flatten()[: 4 * out].view(torch.float32)
    return values.t() if columns else values, scales


def dequantised(packed: torch.Tensor, out: int, dtype: torch.dtype, *, columns: bool = False) -> torch.Tensor:
    """The weight (out, in) that `pack` was given, rounded."""
    return mixed(_scaled(packed, out, torch.float32, columns=columns)).to(dtype)


def _scaled(packed: torch.Tensor, out: int, dtype: torch.dtype, *, columns: bool) -> torch.Tensor:
    """The weight as it is multiplied with inputs that are mixed."""
    values, scales = unpacked(packed, out, columns=columns)
    scales = scales.to(_between(dtype))
    return torch.mul(values, scales[:, None], out=torch.empty_like(values, dtype=dtype))


def _between(dtype: torch.dtype) -> torch.dtype:
    """What results in `dtype` are scaled in: fp16 has too few bits for small scales, and sums with one overflow it."""
    return torch.float32 if dtype == torch.float16 else dtype


def loss(weight: torch.Tensor, packed: torch.Tensor, *, columns: bool = False) -> float:
    """The error of a packed weight relative to the weight; NaN where that holds NaN."""
    rows = _rows_of_a_piece(weight)
    parts = (part.detach().split(rows) for part in (weight, *unpacked(packed, len(weight), columns=columns)))
    lost = whole = torch.zeros((), device=weight.device)
    for piece, values, scales in zip(*parts, strict=True):
        given = piece.float()
        lost = lost + (mixed(values * scales[:, None]) - given).square().sum()
        whole = whole + given.square().sum()
    return float((lost / whole.clamp_min(torch.finfo(torch.float32).tiny)).sqrt())


def per_token(given: torch.Tensor) -> Scaled:
    """Quantises (tokens, in), mixed: int8 values, and scales (tokens, 1) in fp32.

    A token that is not finite has a scale that is not.
    """
    if torch.compiler.is_compiling():
        return _per_token(given)
    if given.device.type != "cpu":
        kernels = _kernels(given.device)
        fits = kernels and kernels.fits(given.shape[1])
        quantised: Scaled = kernels.per_token(given) if fits else _per_token(given)
        return quantised
    values, scales = map(torch.cat, zip(*map(_per_token, given.split(_rows_of_a_piece(given))), strict=True))
    return values, scales


def _per_token(given: torch.Tensor) -> Scaled:
    given = mixed(given.float() if given.dtype == torch.float16 else given)  # of a small scale fp16 holds no inverse
    largest = given.abs()
    if given.device.type == "cpu" and given.dtype == torch.bfloat16:  # ordered as integers are, which is faster
        largest = largest.view(torch.int16).amax(-1, keepdim=True).view(given.dtype)
    else:
        largest = largest.amax(-1, keepdim=True)
    inverse = _LARGEST / largest.clamp_min_(1e-20)
    return given.mul(inverse).round_().to(torch.int8), inverse.float().reciprocal_()


def linear(
    given: torch.Tensor, packed: torch.Tensor, out: int, bias: torch.Tensor | None, *, columns: bool = False
) -> torch.Tensor:
    """given W^T + bias in int8, (..., in) to (..., out), in the dtype of `given`.

    Args:
        packed: W as `pack` made it; both sides divisible by 8.

    Raises:
        RuntimeError: the device has no such product.
    """
    weight = unpacked(packed, out, columns=columns)
    return product(per_token(given.flatten(0, -2)), weight, given.dtype, bias).unflatten(0, given.shape[:-1])


def product(given: Scaled, weight: Scaled, dtype: torch.dtype, bias: torch.Tensor | None = None) -> torch.Tensor:
    """given W^T + bias of what `per_token` and `unpacked` answer, (tokens, out); raises as `linear` does."""
    tokens, token_scales = given
    values, scales = weight
    between = _between(dtype)
    on_cpu = tokens.device.type == "cpu"
    whole = tokens.shape[1] % _ONEDNN_WIDTH == 0
    if on_cpu and whole and not torch.compiler.is_compiling() and _onednn_works(between):
        of_channels = _onednn(tokens, values, scales, between)
        token_scales = token_scales.to(between)
        if bias is None:
            return of_channels.mul_(token_scales).to(dtype)
        return torch.addcmul(bias.to(between), of_channels, token_scales, out=of_channels).to(dtype)
    if not on_cpu:
        values = values.contiguous()  # what was laid out for a CPU: neither of the two takes it
        kernels = None if torch.compiler.is_compiling() else _kernels(tokens.device)
        if kernels is not None and kernels.takes(tokens, values):
            multiplied: torch.Tensor = kernels.product((tokens, token_scales), (values, scales), dtype, bias)
            return multiplied
    sums = torch._int_mm(tokens, values.t())
    scaled = torch.mul(sums, token_scales, out=torch.empty_like(sums, dtype=between))
    scales = scales.to(between)
    answer = scaled.mul_(scales) if bias is None else torch.addcmul(bias.to(between), scaled, scales)
    return answer.to(dtype)


def _onednn(tokens: torch.Tensor, values: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """oneDNN's product, which scales the sums of a channel before it writes them.

    Its weights are the (in, out) that they are, copied: reading them so takes less than from its own order
    (`qlinear_prepack`), which would need room beside them. A plain tensor instead of the copy ends the process.
    """
    no_offsets = torch.zeros(len(values), dtype=torch.int32)
    answer: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
        tokens, 1.0, 0, values.t().to_mkldnn(), scales, no_offsets, None, 1.0, 0, dtype, "none", [], ""
    )
    return answer


@functools.lru_cache(maxsize=8)
def _onednn_works(dtype: torch.dtype) -> bool:
    """Tried out: older ones take no int8 here, some builds have none of it, and AVX2 cuts sums off at 16 bits."""
    if not torch.backends.mkldnn.is_available():
        return False
    values = (torch.arange(64 * 2 * _ONEDNN_WIDTH) * 37 % 255 - 127).view(64, -1)
    narrow = values.to(torch.int8)
    try:
        answer = _onednn(narrow, narrow, torch.ones(64), dtype)
    except (RuntimeError, AttributeError):
        return False
    return torch.equal(answer, (values @ values.t()).to(dtype))


@functools.lru_cache(maxsize=8)
def _kernels(device: torch.device) -> Any:
    """The module of Triton's, where they come out right on a device; None leaves it to PyTorch's operators.

    Raises:
        RuntimeError: its memory is full, or it is lost. That tells nothing of them: they are tried again.
    """
    if find_spec("triton") is None:
        return None
    try:
        kernels: Any = importlib.import_module(".kernels", __package__)
        for width, dtype in _TRIED:
            values = (torch.arange(40 * width) * 37 % 255 - 127).view(40, width)
            narrow, ones = values.to(device, torch.int8), torch.ones(40, device=device)
            answer = kernels.product((narrow, ones[:, None]), (narrow, ones), torch.float32, ones)
            if not torch.equal(answer.cpu(), (values @ values.t()).float() + 1):
                raise ArithmeticError("the sums are wrong")
            given = values.to(device, dtype)
            tokens, token_scales = kernels.per_token(given)
            if bool(((tokens * token_scales - mixed(given.float())).abs() > token_scales).any()):
                raise ArithmeticError("quantised values are wrong")
    except Exception as problem:  # whatever its compiler, or the one for C that it calls, raises
        if classify(problem) in NO_ROOM | LOSSES:
            raise
        logging.info("XPU Nodes: int8 products on %s are PyTorch's own, not Triton's: %s", device, problem)
        return None
    return kernels


def version() -> str:
    """Of this code and Triton's: what was tested of others tells nothing of these."""
    triton = find_spec("triton")
    files = sorted(Path(__file__).parent.glob("*.py"))
    if triton is not None and triton.origin is not None:
        files.append(Path(triton.origin))  # has its number in it
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def linear_by_floats(
    given: torch.Tensor, packed: torch.Tensor, out: int, bias: torch.Tensor | None, *, columns: bool = False
) -> torch.Tensor:
    """As `linear`, but for the inputs, which stay as they are."""
    return F.linear(mixed(given), _scaled(packed, out, given.dtype, columns=columns), bias)
