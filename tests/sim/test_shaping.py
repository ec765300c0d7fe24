"""New tensors, of others or of nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.sim.comparing import INDEX, MASK, Function, assert_same, check, check_or_refuse, numbers

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


@pytest.mark.parametrize("name", SHAPING)
def test_shaping_of_nothing(name: str) -> None:
    check_or_refuse(SHAPING[name], numbers(3, 0))


FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
# What weights in fp8 go through: stored, moved, and widened where they are used.
OF_FP8: dict[str, Function] = {
    "to fp32": lambda x: x.to(torch.float32),
    "to bf16": lambda x: x.to(torch.bfloat16),
    "to fp16": lambda x: x.to(torch.float16),
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.t().contiguous(),
    "view of bytes": lambda x: x.view(torch.uint8),
    "slice": lambda x: x[1:, ::2],
    "cat": lambda x: torch.cat((x, x)),
    "copy_ into fp16": lambda x: torch.zeros(3, 4, dtype=torch.float16, device=x.device).copy_(x),
    "copy_ of fp32": lambda x: x.copy_(torch.full((3, 4), 0.3, device=x.device)),
    "scaled": lambda x: x.to(torch.bfloat16) * 0.5,
    "linear": lambda x: F.linear(torch.ones(2, 4, device=x.device), x.to(torch.float32)),
    "of nothing": lambda x: x[:0].to(torch.float32),
}


@pytest.mark.parametrize("dtype", FP8, ids=str)
@pytest.mark.parametrize("name", OF_FP8)
def test_fp8(name: str, dtype: torch.dtype) -> None:
    def of_bytes(x: torch.Tensor) -> torch.Tensor:
        result = OF_FP8[name](x.view(dtype))
        return result.view(torch.uint8) if result.dtype == dtype else result

    check(of_bytes, numbers(3, 4).to(dtype).view(torch.uint8))


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_rounding_to_fp8(dtype: torch.dtype) -> None:
    check(lambda x: x.to(dtype).view(torch.uint8), numbers(3, 4))


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
