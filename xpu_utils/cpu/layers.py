"""Layers of a model as the CPU computes them fastest: stand-ins for a module's forward, with its own weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ..calls import StandIn
from ..precision import name_of
from . import onednn
from .attention import attention
from .plan import CpuPlan

Forward = Callable[..., Any]

OUTPUTS_PER_PIXEL = 2
"""Output channels that a 3x3 convolution must have for each pixel to be computed as a product ..."""

LARGE_WEIGHT = 4 << 20
"""... and the values that its weight must have: a smaller one stays in the caches while it is laid out anew."""


def fast_linears(
    root: torch.nn.Module,
    plan: CpuPlan,
    before: Callable[[], None] | None = None,
    *,
    kinds: Collection[type[torch.nn.Module]] = (torch.nn.Linear,),
) -> Iterator[tuple[str, StandIn]]:
    """(dotted name of a forward, its stand-in) for the linear layers, where the plan finds oneDNN's product faster.

    Args:
        before: what the layers' own forwards do first.
        kinds: the classes of linear layers whose forward is x W^T + b.
    """
    for name, module in root.named_modules():
        if computes_as(module, kinds):
            stand_in = StandIn(stock_forward(module), _linear, plan.onednn_linear, module, before=before)
            yield f"{name}.forward", stand_in


def fast_convolutions(
    root: torch.nn.Module,
    plan: CpuPlan,
    before: Callable[[], None] | None = None,
    *,
    kinds: Collection[type[torch.nn.Module]] = (torch.nn.Conv2d,),
) -> Iterator[tuple[str, StandIn]]:
    """As `fast_linears`, for the convolutions that may be faster as matrix products, where the plan says so."""
    for name, module in root.named_modules():
        if plan.convolution_as_product and computes_as(module, kinds) and _keeps_size(module):
            stand_in = StandIn(stock_forward(module), _convolution, plan.convolution_as_product, module, before=before)
            yield f"{name}.forward", stand_in


def patch_convolutions(root: torch.nn.Module) -> Iterator[tuple[str, StandIn]]:
    """As `fast_linears`, for the convolutions that cut pictures and videos into patches.

    A transformer takes the answer, (N, C, H, W), for tokens, (N, H W, C), as it lies in memory. Where a token's values
    are not side by side, every sum and norm down to the last block turns it round: a sixth of a call of SD3's shape.
    """
    for name, module in root.named_modules():
        convolves = isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d)
        if convolves and module.kernel_size == module.stride and max(module.stride) > 1:
            stock = stock_forward(module)
            yield f"{name}.forward", StandIn(stock, _tokens_whole, stock)


def _tokens_whole(convolve: Forward, given: torch.Tensor) -> torch.Tensor:
    answer: torch.Tensor = convolve(given)
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(answer.ndim)
    return answer if layout is None else answer.contiguous(memory_format=layout)


@torch.inference_mode()  # weights loaded by a node may be written in that mode only
def channels_last(root: torch.nn.Module) -> None:
    """Lays the weights of two-dimensional convolutions out as (out, height, width, in), in the memory they have.

    New memory for each would leave holes that the next does not fit: up to a quarter of the model. `Module.to` would
    refuse models that have three-dimensional convolutions as well.
    """
    for module in root.modules():
        if isinstance(module, torch.nn.Conv2d) and type(module.weight) is torch.nn.Parameter:
            weight = module.weight.data
            if weight.is_contiguous() and not weight.is_contiguous(memory_format=torch.channels_last):
                _, inputs, height, width = weight.shape
                strides = (inputs * height * width, 1, width * inputs, inputs)
                module.weight.data = weight.as_strided(weight.shape, strides).copy_(weight.clone())


def computes_as(module: torch.nn.Module, kinds: Collection[type[torch.nn.Module]]) -> bool:
    """Whether a module's forward is that of one of these classes: a subclass may compute something else."""
    return any(type(module).forward is kind.forward for kind in kinds)


def stock_forward(module: torch.nn.Module) -> Forward:
    """The forward of a module's class, whatever patch is in force on the module: of the class that it has when called.

    A layer that is held in int8 has another one until it is held in floats again.
    """
    return functools.partial(_class_forward, module)


def _class_forward(module: torch.nn.Module, /, *arguments: Any, **keywords: Any) -> Any:
    return type(module).forward(module, *arguments, **keywords)


def _linear(precisions: tuple[str, ...], module: Any, given: torch.Tensor) -> torch.Tensor | None:
    """x W^T + b by one oneDNN primitive; None where weights are cast, patched on the fly or quantised."""
    fast = name_of(given.dtype) in precisions and onednn.linear_works(given.dtype)
    if not (fast and _plain(module, given)):
        return None
    return onednn.linear(given, module.weight, module.bias)


def gated_gelu(precisions: tuple[str, ...], gate: Any, x: torch.Tensor) -> torch.Tensor | None:
    """a gelu(b), (a, b) the halves of a projection of x: each half one product, with what follows it inside.

    None where the projection is not ours to compute: another forward than the stand-in of `fast_linears`, or hooks.
    """
    if not (name_of(x.dtype) in precisions and onednn.linear_works(x.dtype)):
        return None
    projection = gate.proj
    ours = isinstance(vars(projection).get("forward"), StandIn)
    if not ours or projection._forward_hooks or projection._forward_pre_hooks or not _plain(projection, x):
        return None
    halves = [None, None] if projection.bias is None else projection.bias.chunk(2)
    (weight, gate_weight), (bias, gate_bias) = projection.weight.chunk(2), halves
    return onednn.linear(x, weight, bias, times=onednn.linear(x, gate_weight, gate_bias, then="gelu"))


def exact_gelu(precisions: tuple[str, ...], gelu: torch.nn.GELU, given: torch.Tensor) -> torch.Tensor | None:
    """GELU itself, which is oneDNN's, in place of its approximation by tanh, which is PyTorch's and slower.

    The two differ by 5e-4 at most: of normal values, 2e-4 relative, where rounding to bf16 costs 17e-4. None in formats
    that are not named, and where the module approximates nothing.
    """
    replaces = gelu.approximate == "tanh" and given.device.type == "cpu" and name_of(given.dtype) in precisions
    return F.gelu(given) if replaces else None


def _keeps_size(convolution: Any) -> bool:
    """Whether it is a convolution of 1x1 or 3x3 whose output has its input's height and width."""
    side = convolution.kernel_size[0]
    return (
        convolution.kernel_size in ((1, 1), (3, 3))
        and convolution.padding in ((side // 2, side // 2), "same")
        and convolution.stride == convolution.dilation == (1, 1)
        and convolution.groups == 1
        and (side == 1 or convolution.padding_mode == "zeros")
    )


def _convolution(precisions: tuple[str, ...], convolution: Any, given: torch.Tensor) -> torch.Tensor | None:
    return convolution_as_product(convolution, given) if name_of(given.dtype) in precisions else None


def convolution_as_product(convolution: Any, given: torch.Tensor) -> torch.Tensor | None:
    """A convolution as one matrix product over (pixels, window); None where it is faster, or only right, as it is.

    oneDNN lays a convolution's weights out anew in every call. With few pixels that takes as long as the convolution:
    34 ms of 69 for 2560 x 1280 x 3 x 3 on 2 x 16 x 16 pixels. A product takes the weights as they are, and the windows
    of few pixels are quickly written out; those of a 1x1 convolution are the pixels.
    """
    if not (onednn.linear_works(given.dtype) and given.ndim == 4 and _plain(convolution, given)):
        return None
    weight = convolution.weight.permute(0, 2, 3, 1)
    single = weight.shape[1:3].numel() == 1
    few = given.shape[0] * given.shape[2:].numel() * OUTPUTS_PER_PIXEL <= weight.shape[0]
    if not (weight.is_contiguous() and (single or (few and weight.numel() >= LARGE_WEIGHT))):
        return None
    rows = given.permute(0, 2, 3, 1)
    if not single:
        windows = F.pad(rows, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
        rows = windows.permute(0, 1, 2, 4, 5, 3).flatten(3)
    return onednn.linear(rows.contiguous(), weight.flatten(1), convolution.bias).permute(0, 3, 1, 2)


def _plain(module: Any, given: torch.Tensor) -> bool:
    """Whether a layer's weights can be used as they are: in the input's dtype, with nothing to be done to them."""
    weight, bias = module.weight, module.bias
    return (
        type(weight) is torch.nn.Parameter
        and weight.dtype == given.dtype
        and weight.device.type == given.device.type == "cpu"
        and not getattr(module, "weight_function", ())
        and not getattr(module, "bias_function", ())
        and (bias is None or bias.dtype == weight.dtype)
        and not (torch.is_grad_enabled() and (given.requires_grad or weight.requires_grad))
    )


def fast_upsampling(convolution: Any, given: torch.Tensor) -> torch.Tensor | None:
    """convolution(nearest-neighbour doubling of (N, C, H, W)) with fewer multiplications; None where it cannot be.

    Each output pixel of one parity sees the doubled picture's 3x3 window as a 2x2 window of the original, some of its
    pixels twice. So four 2x2 convolutions with summed weights, one a parity, give the same result with 4/9 of the
    multiplications. In pictures smaller than their number of channels summing the weights would cost more than is
    saved: there each pixel's products with the nine places of the window are summed, with 1/4 of them.
    """
    applies = (
        isinstance(convolution, torch.nn.Conv2d)
        and given.ndim == 4
        and convolution.kernel_size == (3, 3)
        and convolution.padding == convolution.stride == convolution.dilation == (1, 1)
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
        and _plain(convolution, given)
    )
    if not applies:
        return None
    small = given.shape[0] * given.shape[2:].numel() < given.shape[1]
    return (_upsample_small if small else upsample_convolve)(given, convolution.weight, convolution.bias)


def upsample_convolve(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """conv2d(doubled (N, C, H, W), 3x3 weight, padding=1): (N, C', 2H, 2W), channels last. See `fast_upsampling`."""
    batch, _, height, width = given.shape
    size = (batch, weight.shape[0], 2 * height, 2 * width)
    out = torch.empty(size, dtype=given.dtype, memory_format=torch.channels_last)
    for row, rows in enumerate(_summed(weight.float(), 2)):
        for column, window in enumerate(_summed(rows, 3)):
            window = window.to(given.dtype).to(memory_format=torch.channels_last)
            parity = F.conv2d(given, window, bias, padding=1)
            out[:, :, row::2, column::2] = parity[:, :, row : row + height, column : column + width]
    return out


def _summed(weight: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A kernel of 3 along `dim` as the two kernels of 2 that even and odd output pixels apply to the original."""
    first, middle, last = weight.split(1, dim)
    return torch.cat((first, middle + last), dim), torch.cat((first + middle, last), dim)


def _upsample_small(given: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    places = weight.permute(2, 3, 0, 1).flatten(0, 2)
    products = F.linear(given.permute(0, 2, 3, 1), places).unflatten(-1, (3, 3, -1))
    if bias is not None:
        products[..., 1, 1, :] += bias
    rows = _doubled(*products.unbind(3), dim=1)
    return _doubled(*rows.unbind(3), dim=2).permute(0, 3, 1, 2)


def _doubled(first: torch.Tensor, middle: torch.Tensor, last: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Products with a kernel of 3 along `dim`, summed to what the kernel gives on the doubled input."""
    further = middle.shape[dim] - 1
    even, odd = middle + last, first + middle
    even.narrow(dim, 1, further).add_(first.narrow(dim, 0, further))
    odd.narrow(dim, 0, further).add_(last.narrow(dim, 1, further))
    return torch.stack((even, odd), dim + 1).flatten(dim, dim + 1)


def picture_attention(plan: CpuPlan, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of a VAE's middle block, one head over all pixels: (batch, channels, height, width) in and out."""
    shape = q.shape
    path = plan.attention_path(q.dtype, shape[2:].numel(), shape[2:].numel(), shape[1])
    q, k, v = (t.flatten(2).transpose(1, 2) for t in (q, k, v))
    return attention(q, k, v, heads=1, path=path).transpose(1, 2).reshape(shape)
