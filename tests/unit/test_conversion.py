"""Weights held in another format for a while."""

from __future__ import annotations

import pytest
import torch

from xpu_utils.weights.conversion import by_way_of_fp32, convert, converted_bytes


def network(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    root = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 3)).to(dtype)
    root.register_buffer("noise_levels", torch.rand(5))
    return root


@pytest.mark.parametrize(
    ("stored", "computed"), [(torch.float16, torch.float32), (torch.float16, torch.bfloat16), (torch.bfloat16,) * 2]
)
def test_what_is_undone_is_as_it_was_to_the_bit(stored: torch.dtype, computed: torch.dtype) -> None:
    root = network(stored)
    before = {name: (tensor, tensor.clone(), tensor.stride()) for name, tensor in root.state_dict().items()}
    conversion = convert(root, computed, channels_last=True)
    assert {parameter.dtype for parameter in root.parameters()} == {computed}
    assert root[0].weight.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert root(torch.ones(1, 4, 3, 3, dtype=computed)).dtype == computed
    conversion.undo()
    for name, tensor in root.state_dict().items():
        original, values, stride = before[name]
        assert tensor.data_ptr() == original.data_ptr(), name
        assert torch.equal(tensor, values)
        assert tensor.stride() == stride


def test_fp32_is_converted_only_when_told_and_its_buffers_never() -> None:
    root = network(torch.float32)
    convert(root, torch.bfloat16)
    assert root[0].weight.dtype == torch.float32
    convert(root, torch.bfloat16, from_fp32=True)
    assert root[0].weight.dtype == torch.bfloat16
    assert root.noise_levels.dtype == torch.float32


def test_a_shared_weight_stays_shared() -> None:
    first, second = torch.nn.Linear(3, 3).half(), torch.nn.Linear(3, 3).half()
    second.weight = first.weight
    root = torch.nn.ModuleList([first, second])
    convert(root, torch.float32)
    assert second.weight is first.weight


def test_the_memory_needed_is_told_before() -> None:
    root = network(torch.float16)
    count = sum(parameter.numel() for parameter in root.parameters())
    assert converted_bytes(root, torch.float32) == 4 * count
    assert converted_bytes(root, torch.float16) == 0
    assert converted_bytes(root, torch.float16, channels_last=True) == 2 * root[0].weight.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_half_format_becomes_the_other_by_way_of_fp32_with_the_same_rounding(dtype: torch.dtype) -> None:
    (other,) = {torch.float16, torch.bfloat16} - {dtype}
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    by_way = by_way_of_fp32(every, other)
    assert by_way.dtype == torch.float32
    assert torch.equal(by_way.to(other).nan_to_num(nan=7), every.to(other).nan_to_num(nan=7))
    for given, wanted in ((every, dtype), (every, torch.float32), (every.float(), dtype)):
        assert by_way_of_fp32(given, wanted) is given
