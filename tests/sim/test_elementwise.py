"""Operators on each element, and reductions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from tests.sim.comparing import HALVES, Function, check, check_or_refuse, names, numbers

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


@pytest.mark.parametrize("shape", [(0, 7), (5, 0)])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_of_nothing(name: str, shape: tuple[int, int]) -> None:
    check_or_refuse(lambda x: tuple(r) if isinstance(r := REDUCTIONS[name](x, 1), tuple) else r, numbers(*shape))


def whole(name: str) -> Function:
    return lambda x: getattr(torch, name)(x)


@pytest.mark.parametrize("name", names("sum mean amax amin prod var std argmax any all max min"))
def test_reduction_of_everything(name: str) -> None:
    check(whole(name), numbers(5, 7).t())


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
