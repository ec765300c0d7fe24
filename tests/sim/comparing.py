"""The same function on the CPU and on the simulated device: values, types, shapes and strides must agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Function = Callable[..., Any]
HALVES = (torch.bfloat16, torch.float16)
INDEX = torch.tensor([2, 0, 2])
MASK = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])


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


def check_or_refuse(function: Function, *inputs: Any) -> None:
    """Like `check`; what the CPU refuses, such as a maximum of nothing, the device must refuse as well."""
    try:
        function(*(x.clone() for x in inputs))
    except (RuntimeError, IndexError, ValueError) as refusal:
        with pytest.raises(type(refusal)):
            function(*to_xpu(inputs))
    else:
        check(function, *inputs)
