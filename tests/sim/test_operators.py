"""Operators on the simulated device give what the CPU gives: values, types, shapes and strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

Function = Callable[..., Any]
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
HALVES = (torch.bfloat16, torch.float16)


def names(text: str) -> list[str]:
    return text.split()


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape))).to(dtype)


def to_xpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        # empty_strided and not .to(): the layout is part of the case
        target = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="xpu")
        return target.copy_(value)
    if isinstance(value, list | tuple):
        return type(value)(to_xpu(entry) for entry in value)
    return value


def assert_same(on_cpu: Any, on_xpu: Any, *, rtol: float = 0, atol: float = 0) -> None:
    if isinstance(on_cpu, list | tuple):
        assert len(on_cpu) == len(on_xpu)
        for left, right in zip(on_cpu, on_xpu, strict=True):
            assert_same(left, right, rtol=rtol, atol=atol)
    elif isinstance(on_cpu, torch.Tensor):
        assert on_xpu.device == torch.device("xpu:0")
        assert on_xpu.stride() == on_cpu.stride()
        torch.testing.assert_close(on_xpu.cpu(), on_cpu, rtol=rtol, atol=atol, equal_nan=True)
    else:
        assert on_cpu == on_xpu


def check(function: Function, *inputs: Any, rtol: float = 0, atol: float = 0) -> None:
    """Runs a function on both devices; results and (changed) inputs must agree."""
    device_inputs = to_xpu(inputs)
    with torch.no_grad():
        on_cpu = function(*inputs)
        on_xpu = function(*device_inputs)
    assert_same(on_cpu, on_xpu, rtol=rtol, atol=atol)
    assert_same(list(inputs), list(device_inputs), rtol=rtol, atol=atol)


UNARY: dict[str, Function] = {
    **{
        name: getattr(torch, name)
        for name in [
            "abs",
            "ceil",
            "cos",
            "erf",
            "exp",
            "floor",
            "frac",
            "isfinite",
            "isnan",
            "log1p",
            "logical_not",
            "nan_to_num",
            "neg",
            "reciprocal",
            "relu",
            "round",
            "rsqrt",
            "sigmoid",
            "sign",
            "sin",
            "sqrt",
            "square",
            "tanh",
            "trunc",
        ]
    },
    **{
        name: getattr(F, name)
        for name in names("elu gelu hardswish leaky_relu mish silu softplus logsigmoid tanhshrink")
    },
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: torch.clamp(x, min=0.1),
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "pow_scalar": lambda x: x**2,
    "add_scalar": lambda x: x + 1.5,
    "rsub_scalar": lambda x: 1 - x,
}

LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "contiguous": lambda: numbers(4, 6),
    "transposed": lambda: numbers(6, 4).t(),
    "strided": lambda: numbers(4, 12)[:, ::2],
    "zero-size": lambda: numbers(0, 6),
    "scalar": lambda: numbers(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str, layout: str) -> None:
    check(UNARY[name], LAYOUTS[layout]())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_unary_reduced_precision(name: str, dtype: torch.dtype) -> None:
    check(UNARY[name], numbers(4, 6, dtype=dtype))


BINARY: dict[str, Function] = {
    **{
        name: getattr(torch, name)
        for name in [
            "add",
            "sub",
            "mul",
            "div",
            "maximum",
            "minimum",
            "fmod",
            "eq",
            "ne",
            "lt",
            "ge",
            "atan2",
            "hypot",
            "logaddexp",
        ]
    },
    "pow": lambda x, y: x.abs() ** y,
    "where": lambda x, y: torch.where(x > y, x, y),
    "lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
    "floor_divide": lambda x, y: x // y,
    "remainder": lambda x, y: x % y,
}
PAIRS: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {
    "same": lambda: (numbers(4, 6), numbers(4, 6, seed=1)),
    "broadcast": lambda: (numbers(4, 1, 6), numbers(3, 1)),
    "mixed strides": lambda: (numbers(6, 4).t(), numbers(4, 6)),
    "zero-size": lambda: (numbers(0, 6), numbers(1, 6)),
    "bf16": lambda: (numbers(4, 6, dtype=torch.bfloat16), numbers(4, 6, seed=1, dtype=torch.bfloat16)),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str, pair: str) -> None:
    check(BINARY[name], *PAIRS[pair]())


REDUCTIONS: dict[str, Function] = {
    **{
        name: lambda x, dim, name=name: getattr(torch, name)(x, dim)
        for name in [
            "sum",
            "mean",
            "amax",
            "amin",
            "prod",
            "var",
            "std",
            "argmax",
            "argmin",
            "cumsum",
            "cumprod",
            "softmax",
            "log_softmax",
            "logsumexp",
            "any",
            "all",
            "max",
            "min",
            "median",
            "sort",
            "count_nonzero",
        ]
    },
    "topk": lambda x, dim: torch.topk(x, 2, dim),
    "norm": lambda x, dim: torch.linalg.vector_norm(x, dim=dim, keepdim=True),
    "quantile": lambda x, dim: torch.quantile(x, 0.3, dim),
}


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction(name: str, dim: int) -> None:
    check(lambda x: tuple(r) if isinstance(r := REDUCTIONS[name](x, dim), tuple) else r, numbers(5, 7))


def whole(name: str) -> Function:
    return lambda x: getattr(torch, name)(x)


@pytest.mark.parametrize("name", names("sum mean amax amin prod var std argmax any all max min"))
def test_reduction_of_everything(name: str) -> None:
    check(whole(name), numbers(5, 7).t())


MATRIX: dict[str, tuple[Function, tuple[tuple[int, ...], ...]]] = {
    "mm": (torch.mm, ((8, 16), (16, 4))),
    "mm of a transpose": (lambda a, b: a @ b.t(), ((8, 16), (4, 16))),
    "bmm": (torch.bmm, ((3, 8, 16), (3, 16, 4))),
    "addmm": (torch.addmm, ((4,), (8, 16), (16, 4))),
    "baddbmm": (lambda c, a, b: torch.baddbmm(c, a, b, beta=0.5, alpha=2), ((3, 8, 4), (3, 8, 16), (3, 16, 4))),
    "mv": (torch.mv, ((8, 16), (16,))),
    "dot": (torch.dot, ((64,), (64,))),
    "matmul broadcast": (torch.matmul, ((2, 3, 8, 16), (3, 16, 4))),
    "matmul folded": (torch.matmul, ((2, 8, 16), (16, 4))),
    "einsum": (lambda a, b: torch.einsum("b i d, b j d -> b i j", a, b), ((2, 8, 16), (2, 4, 16))),
    "linear": (F.linear, ((2, 8, 16), (4, 16), (4,))),
    "linear without bias": (F.linear, ((2, 8, 16), (4, 16))),
    "linear of a vector": (F.linear, ((16,), (4, 16), (4,))),
    "bilinear": (F.bilinear, ((8, 6), (8, 5), (4, 6, 5))),
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, padding=1), ((2, 4, 16), (8, 4, 3), (8,))),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), ((2, 4, 9, 9), (8, 4, 3, 3), (8,))),
    "conv2d strided": (lambda x, w: F.conv2d(x, w, stride=2), ((2, 4, 9, 9), (8, 4, 3, 3))),
    "conv2d grouped": (lambda x, w: F.conv2d(x, w, groups=2, dilation=2), ((2, 4, 9, 9), (8, 2, 3, 3))),
    "conv2d pointwise": (F.conv2d, ((2, 4, 9, 9), (8, 4, 1, 1))),
    "conv2d channels_last": (
        lambda x, w: F.conv2d(x.to(memory_format=torch.channels_last), w),
        ((2, 4, 9, 9), (8, 4, 3, 3)),
    ),
    "conv3d": (lambda x, w: F.conv3d(x, w, padding=1), ((1, 4, 5, 6, 7), (8, 4, 3, 3, 3))),
    "conv_transpose2d": (lambda x, w: F.conv_transpose2d(x, w, stride=2), ((2, 4, 5, 5), (4, 8, 3, 3))),
    "sdpa": (F.scaled_dot_product_attention, ((2, 4, 10, 16), (2, 4, 12, 16), (2, 4, 12, 16))),
    "sdpa with a mask": (F.scaled_dot_product_attention, ((2, 4, 10, 16), (2, 4, 12, 16), (2, 4, 12, 16), (10, 12))),
    "sdpa causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), ((1, 2, 8, 8),) * 3),
    "sdpa scaled": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3), ((1, 2, 8, 8),) * 3),
    "sdpa of transposed": (
        lambda q, k, v: F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))),
        ((2, 10, 4, 16),) * 3,
    ),
    "sdpa grouped": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        ((1, 4, 8, 8), (1, 2, 8, 8), (1, 2, 8, 8)),
    ),
    "cdist": (torch.cdist, ((5, 4), (6, 4))),
    "outer": (torch.outer, ((5,), (6,))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MATRIX)
def test_matrix(name: str, dtype: torch.dtype) -> None:
    function, shapes = MATRIX[name]
    if name == "cdist" and dtype is not torch.float32:
        dtype = torch.float64  # neither the CPU nor XPU has it in bf16
    check(function, *(numbers(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)))


@pytest.mark.parametrize("name", [name for name in MATRIX if name != "cdist"])
def test_matrix_in_fp16_is_fp32_rounded(name: str) -> None:
    function, shapes = MATRIX[name]
    inputs = [numbers(*shape, seed=i, dtype=torch.float16) for i, shape in enumerate(shapes)]
    result = function(*to_xpu(inputs))
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.cpu().float(), function(*(x.float() for x in inputs)), rtol=2e-3, atol=2e-3)


def resized(**options: Any) -> Function:
    return lambda x: F.interpolate(x, scale_factor=1.5, **options)


IMAGE = (2, 8, 6, 10)
LAYERS: dict[str, tuple[Function, tuple[int, ...]]] = {
    "layer_norm": (lambda x: F.layer_norm(x, (10,)), IMAGE),
    "group_norm": (lambda x: F.group_norm(x, 4), IMAGE),
    "rms_norm": (lambda x: F.rms_norm(x, (10,)), IMAGE),
    "instance_norm": (lambda x: F.instance_norm(x), IMAGE),
    "batch_norm": (lambda x: F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3))), IMAGE),
    "normalize": (lambda x: F.normalize(x, dim=1), IMAGE),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1)), IMAGE),
    "pad reflect": (lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"), IMAGE),
    "pad replicate": (lambda x: F.pad(x, (1, 2, 0, 1), mode="replicate"), IMAGE),
    "pad circular": (lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"), IMAGE),
    "nearest": (resized(mode="nearest"), IMAGE),
    "nearest-exact": (resized(mode="nearest-exact"), IMAGE),
    "bilinear": (resized(mode="bilinear"), IMAGE),
    "bilinear antialias": (lambda x: F.interpolate(x, (3, 5), mode="bilinear", antialias=True), IMAGE),
    "bicubic": (resized(mode="bicubic", align_corners=True), IMAGE),
    "area": (lambda x: F.interpolate(x, (3, 5), mode="area"), IMAGE),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), IMAGE),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), IMAGE),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), IMAGE),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), IMAGE),
    "unfold": (lambda x: F.unfold(x, 3, padding=1), IMAGE),
    "fold": (lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 10), 3, padding=1), IMAGE),
    "glu": (lambda x: F.glu(x, 1), IMAGE),
    "dropout in eval": (lambda x: F.dropout(x, 0.5, training=False), IMAGE),
    "grid_sample": (lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).contiguous(), align_corners=False), IMAGE),
    "softmax": (lambda x: F.softmax(x, dim=1), IMAGE),
    "softmax in fp32": (lambda x: F.softmax(x, dim=-1, dtype=torch.float32), IMAGE),
    "mse_loss": (lambda x: F.mse_loss(x, x * 0.5), IMAGE),
    "multi-head": (lambda x: torch.nn.functional.softmax(x @ x.transpose(-1, -2), -1) @ x, IMAGE),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, dtype: torch.dtype) -> None:
    function, shape = LAYERS[name]
    if name == "bilinear antialias":
        dtype = torch.float32  # the CPU's only one
    check(function, numbers(*shape, dtype=dtype))


VIEWS: dict[str, Function] = {
    "view": lambda x: x.view(6, 4),
    "view of a dtype": lambda x: x.view(torch.int32),
    "reshape": lambda x: x.reshape(2, 12),
    "permute": lambda x: x.permute(2, 0, 1),
    "transpose": lambda x: x.transpose(0, 2),
    "slice": lambda x: x[:, 1:, ::2],
    "select": lambda x: x[1],
    "narrow": lambda x: x.narrow(2, 1, 2),
    "expand": lambda x: x[:, :1].expand(2, 5, 4),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "flatten": lambda x: x.flatten(1),
    "unflatten": lambda x: x.unflatten(2, (2, 2)),
    "chunk": lambda x: x.chunk(2, 2)[1],
    "split": lambda x: x.split([1, 3], 2)[1],
    "tensor_split": lambda x: x.tensor_split(3, 2)[2],
    "unbind": lambda x: x.unbind(1)[2],
    "diagonal": lambda x: x.diagonal(0, 1, 2),
    "movedim": lambda x: x.movedim(0, 2),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "unfold": lambda x: x.unfold(2, 2, 1),
    "as_strided": lambda x: x.as_strided((3, 2), (4, 1), 2),
    "detach": lambda x: x.detach(),
    "ellipsis": lambda x: x[..., None, 0],
    "view_as_complex": lambda x: torch.view_as_complex(x.view(2, 3, 2, 2)).real,
    "mT": lambda x: x.mT,
    "storage": lambda x: torch.empty(0, device=x.device).set_(x.untyped_storage(), 3, (2, 2), (4, 1)),
    "parameter": lambda x: torch.nn.Parameter(x).data[0],
}


@pytest.mark.parametrize("name", VIEWS)
def test_view_shares_memory(name: str) -> None:
    def through_view(x: torch.Tensor) -> torch.Tensor:
        view = VIEWS[name](x)
        before = view.clone()
        (view[..., 0] if view.dim() else view).fill_(3)
        return before

    base = numbers(2, 3, 4)
    untouched = base.clone()
    check(through_view, base)
    assert not torch.equal(base, untouched)


def set_item(key: Any) -> Function:
    def run(x: torch.Tensor) -> torch.Tensor:
        x[key] = 7
        return x

    return run


INDEX = torch.tensor([2, 0, 2])
MASK = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
IN_PLACE: dict[str, Function] = {
    "add_": lambda x: x.add_(x, alpha=2),
    "iadd": lambda x: x.__iadd__(1),
    "mul_": lambda x: x.mul_(0.5),
    "div_": lambda x: x.div_(3),
    "clamp_": lambda x: x.clamp_(-0.5, 0.5),
    "fill_": lambda x: x.fill_(2),
    "zero_": lambda x: x.zero_(),
    "copy_": lambda x: x.copy_(x[0].clone()),
    "copy_ of another dtype": lambda x: x.copy_((x * 10).int()),
    "exp_": lambda x: x.exp_(),
    "silu_": lambda x: F.silu(x, inplace=True),
    "relu_": lambda x: x.relu_(),
    "addcmul_": lambda x: x.addcmul_(x, x, value=0.1),
    "addcdiv_": lambda x: x.addcdiv_(x, x.abs() + 1),
    "lerp_": lambda x: x.lerp_(x * 2, 0.3),
    "masked_fill_": lambda x: x.masked_fill_(MASK.to(x.device), 9),
    "index_fill_": lambda x: x.index_fill_(0, INDEX.to(x.device), 4),
    "index_copy_": lambda x: x.index_copy_(0, INDEX.to(x.device)[:2], x[:2] * 2),
    "index_add_": lambda x: x.index_add_(0, INDEX.to(x.device), x.clone()),
    "index_put_": lambda x: x.index_put_((INDEX.to(x.device),), x[0].clone()),
    "index_put_ accumulating": lambda x: x.index_put_((INDEX,), x[0].clone(), accumulate=True),
    "scatter_": lambda x: x.scatter_(0, INDEX.to(x.device)[:, None], 5.0),
    "scatter_add_": lambda x: x.scatter_add_(0, INDEX.to(x.device)[:, None].expand(3, 4), x.clone()),
    "set a row": set_item(1),
    "set a slice": set_item((slice(None), slice(1, 3))),
    "set by a mask": set_item(MASK),
    "set by indices": set_item(INDEX),
    "set everything": set_item(...),
    "transpose_": lambda x: x.transpose_(0, 1),
    "unsqueeze_": lambda x: x.unsqueeze_(0),
    "resize_ smaller": lambda x: x.resize_(2, 4),
    "tril_": lambda x: x.tril_(),
    "in place on a view": lambda x: x[1:].add_(1),
    "in place on a transpose": lambda x: x.t()[1:3].mul_(2),
    "overlapping copy": lambda x: x[:2].copy_(x[1:].clone()),
    "baddbmm_": lambda x: x.clone()[None].baddbmm_(x[None, :, :3], x[None]),
    "foreach": lambda x: torch._foreach_add_([x[0], x[1]], 1.0),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place(name: str) -> None:
    check(IN_PLACE[name], numbers(3, 4))


def test_resize_larger_keeps_what_was_there() -> None:
    tensor = torch.arange(4.0, device="xpu")
    tensor.resize_(2, 4)
    assert tensor.shape == (2, 4)
    assert tensor.device.type == "xpu"
    assert tensor[0].tolist() == [0, 1, 2, 3]


OUT: dict[str, Function] = {
    "add": lambda x, out: torch.add(x, x, out=out),
    "exp": lambda x, out: torch.exp(x, out=out),
    "matmul": lambda x, out: torch.matmul(x, x, out=out),
    "addmm": lambda x, out: torch.addmm(x, x, x, out=out),
    "cat": lambda x, out: torch.cat((x[:2], x[2:]), out=out),
    "clamp": lambda x, out: torch.clamp(x, 0, 1, out=out),
    "where": lambda x, out: torch.where(x > 0, x, x * 2, out=out),
    "softmax": lambda x, out: torch.softmax(x, 1, out=out),
    "cumsum": lambda x, out: torch.cumsum(x, 0, out=out),
    "tril": lambda x, out: torch.tril(x, out=out),
    "gather": lambda x, out: torch.gather(x, 0, (x > 0).long(), out=out),
    "take_along_dim": lambda x, out: torch.take_along_dim(x, (x > 0).long(), 1, out=out),
}


@pytest.mark.parametrize("layout", ["right", "empty", "transposed"])
@pytest.mark.parametrize("name", OUT)
def test_out(name: str, layout: str) -> None:
    out = {
        "right": lambda: torch.zeros(4, 4),
        "empty": lambda: torch.zeros(0),
        "transposed": lambda: torch.zeros(4, 4).t(),
    }[layout]()
    check(OUT[name], numbers(4, 4), out)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_out_in_reduced_precision(dtype: torch.dtype) -> None:
    check(OUT["matmul"], numbers(4, 4, dtype=dtype), torch.zeros(4, 4, dtype=dtype), rtol=1e-2, atol=1e-2)


SHAPING: dict[str, Function] = {
    "cat": lambda x: torch.cat((x, x * 2), 1),
    "cat of dtypes": lambda x: torch.cat((x, x.int()), 0),
    "cat with an empty one": lambda x: torch.cat((x, x[:0])),
    "stack": lambda x: torch.stack((x, x + 1), 1),
    "hstack": lambda x: torch.hstack((x, x)),
    "repeat": lambda x: x.repeat(2, 3),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "tile": lambda x: x.tile(2),
    "roll": lambda x: x.roll((1, 2), (0, 1)),
    "flip": lambda x: x.flip(0, 1),
    "rot90": lambda x: x.rot90(),
    "tril": lambda x: x.tril(-1),
    "triu": lambda x: x.triu(1),
    "gather": lambda x: x.gather(1, INDEX.to(x.device)[:, None]),
    "index_select": lambda x: x.index_select(0, INDEX.to(x.device)),
    "index by a tensor": lambda x: x[INDEX.to(x.device)],
    "index by a host tensor": lambda x: x[INDEX],
    "index by a list": lambda x: x[[0, 2]],
    "index by a mask": lambda x: x[MASK.to(x.device)],
    "masked_select": lambda x: x.masked_select(MASK.to(x.device)),
    "nonzero": lambda x: (x > 0).nonzero(),
    "where as indices": lambda x: list(torch.where(x > 0)),
    "embedding": lambda x: F.embedding(INDEX.to(x.device), x),
    "one_hot": lambda x: F.one_hot(INDEX.to(x.device), 4),
    "bincount": lambda x: torch.bincount(INDEX.to(x.device)),
    "unique": lambda x: torch.unique(INDEX.to(x.device)),
    "searchsorted": lambda x: torch.searchsorted(x.sort(1).values, x[:, :1].contiguous()),
    "bucketize": lambda x: torch.bucketize(x, x.flatten().sort().values),
    "meshgrid": lambda x: list(torch.meshgrid(x[0], x[1], indexing="ij")),
    "kron": lambda x: torch.kron(x, x),
    "diag": lambda x: torch.diag(x[0]),
    "clone": lambda x: x.t().clone(),
    "contiguous": lambda x: x.t().contiguous(),
    "channels_last": lambda x: x.view(1, 1, 3, 4).contiguous(memory_format=torch.channels_last),
    "to dtype": lambda x: x.to(torch.bfloat16),
    "to int": lambda x: (x * 10).to(torch.int64),
    "to bool": lambda x: (x > 0).to(torch.bool),
    "fft": lambda x: torch.fft.rfft(x).abs(),
    "ifft": lambda x: torch.fft.ifftn(torch.fft.fftn(x)).real,
    "complex": lambda x: torch.polar(x.abs(), x),
    "conj": lambda x: torch.complex(x, x).conj() * 2,
    "inverse": lambda x: torch.linalg.inv(x[:, :3] + torch.eye(3, device=x.device) * 3),
    "svd values": lambda x: torch.linalg.svdvals(x),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 1:]),
    "item": lambda x: x[0, 0].item(),
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x.clone()),
    "allclose": lambda x: torch.allclose(x, x + 1e-9),
    "bool": lambda x: bool((x > -100).all()),
    "vmap": lambda x: torch.vmap(lambda row: row * row.sum())(x),
}


@pytest.mark.parametrize("name", SHAPING)
def test_shaping_and_indexing(name: str) -> None:
    check(SHAPING[name], numbers(3, 4))


CREATION: dict[str, Callable[[str], Any]] = {
    "zeros": lambda device: torch.zeros(2, 3, device=device),
    "ones": lambda device: torch.ones(2, dtype=torch.bfloat16, device=device),
    "full": lambda device: torch.full((2, 2), 3, device=device),
    "arange": lambda device: torch.arange(0, 1, 0.1, device=device),
    "arange of int": lambda device: torch.arange(5, device=device),
    "linspace": lambda device: torch.linspace(0, 1, 7, device=device),
    "logspace": lambda device: torch.logspace(0, 1, 5, device=device),
    "eye": lambda device: torch.eye(3, device=device),
    "tensor": lambda device: torch.tensor([[1, 2], [3, 4]], device=device),
    "tensor of float": lambda device: torch.tensor(1.5, device=device),
    "as_tensor": lambda device: torch.as_tensor([1.0, 2.0], device=device),
    "zeros_like": lambda device: torch.zeros_like(torch.ones(2, 3, device=device).t()),
    "full_like": lambda device: torch.full_like(torch.ones(2, device=device), 4),
    "new_zeros": lambda device: torch.ones(2, device=device).new_zeros(3),
    "new_tensor": lambda device: torch.ones(2, device=device).new_tensor([1, 2]),
    "tril_indices": lambda device: torch.tril_indices(3, 3, device=device),
    "empty of nothing": lambda device: torch.empty(0, 4, device=device),
    "hann_window": lambda device: torch.hann_window(8, device=device),
    "scalar_tensor": lambda device: torch.scalar_tensor(2.0, device=device),
}


@pytest.mark.parametrize("name", CREATION)
def test_creation(name: str) -> None:
    assert_same(CREATION[name]("cpu"), CREATION[name]("xpu"))


def test_creation_on_the_default_device() -> None:
    with torch.device("xpu"):
        assert torch.ones(2).device == torch.device("xpu:0")
        assert torch.nn.Linear(2, 2).weight.device == torch.device("xpu:0")


PROMOTIONS: dict[str, Function] = {
    "int and float": lambda x: x.int() + x,
    "fp16 and fp32": lambda x: x.half() * x,
    "bf16 and fp16": lambda x: x.bfloat16() + x.half(),
    "bool and int": lambda x: (x > 0) + x.int(),
    "int and a float number": lambda x: x.int() * 1.5,
    "fp16 and a float number": lambda x: x.half() * 1e-3,
    "int division": lambda x: x.int() / 3,
    "uint8 and int": lambda x: x.abs().byte() + x.int(),
    "a host scalar": lambda x: x * torch.tensor(0.3, dtype=torch.float64),
    "a device scalar": lambda x: x.half() * torch.tensor(0.3, device=x.device),
    "comparison": lambda x: x.half() > x,
    "where": lambda x: torch.where(x > 0, x.half(), 0.0),
    "where of numbers": lambda x: torch.where(x > 0, 1, 0.5),
    "pow of int": lambda x: 2 ** x.int(),
    "sum of bool": lambda x: (x > 0).sum(),
    "mean of fp16": lambda x: x.half().mean(),
    "complex": lambda x: x + 1j,
}


@pytest.mark.parametrize("name", PROMOTIONS)
def test_type_promotion(name: str) -> None:
    check(PROMOTIONS[name], numbers(3, 4))


def gradient_of(parameter: torch.nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def test_backward_through_a_small_model() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4))
    inputs = numbers(2, 3, 8, 8)
    model(inputs).sum().backward()
    expected = [gradient_of(parameter).clone() for parameter in model.parameters()]
    model.zero_grad()
    model.to("xpu")(inputs.to("xpu")).sum().backward()
    for gradient, parameter in zip(expected, model.parameters(), strict=True):
        assert gradient_of(parameter).device == torch.device("xpu:0")
        torch.testing.assert_close(gradient_of(parameter).cpu(), gradient)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x + y,
        lambda x, y: y + x,
        lambda x, y: x @ y.t(),
        lambda x, y: torch.cat((x, y)),
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: F.linear(x, y),
        lambda x, y: F.embedding(INDEX.to(x.device), y),
        lambda x, y: x.gather(0, y.long()),
        lambda x, y: torch.stack((x, y)),
        lambda x, y: torch.add(x, x, out=y),
        lambda x, y: F.conv1d(x[None], y[..., None]),
        lambda x, y: F.layer_norm(x, (4,), y[0]),
    ],
)
@pytest.mark.parametrize("elsewhere", ["cpu", "xpu:1"])
def test_tensors_on_two_devices_are_refused(function: Function, elsewhere: str) -> None:
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        function(numbers(3, 4).to("xpu:0"), numbers(3, 4).to(elsewhere))


def test_numpy_needs_a_copy_to_the_host() -> None:
    with pytest.raises(TypeError, match="can't convert xpu:0 device type tensor to numpy"):
        torch.ones(2, device="xpu").numpy()
