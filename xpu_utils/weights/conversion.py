"""A module's weights held in another format for a while, and then as they were, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

HALVES = (torch.float16, torch.bfloat16)

Weights = dict[str, Any]
"""A module's parameters or buffers by name."""

_Entry = tuple[torch.nn.Module, Weights, str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What a conversion replaced."""

    originals: tuple[tuple[Weights, str, torch.Tensor], ...]
    """Where a tensor was: the weights of its module, and its name among them; and the tensor itself."""

    def undo(self) -> None:
        """Puts the original tensors back: rounding and layouts go with the converted ones."""
        for weights, name, original in self.originals:
            weights[name] = original


def by_way_of_fp32(given: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is to be converted to a dtype: values of the other half format in fp32, which has both, else as they are.

    torch converts one half format to the other value by value, and both from and to fp32 with vectors: 1.0 against
    0.2 ns a value from fp16 to bf16 (torch 2.13, Zen 4). The result is the same, but for what a NaN carries.
    """
    return given.float() if {given.dtype, dtype} == set(HALVES) else given


def converted_bytes(
    root: torch.nn.Module, dtype: torch.dtype, *, from_fp32: bool = False, channels_last: bool = False
) -> int:
    """The memory that `convert` needs for the new weights beside the old ones."""
    replaced = {id(tensor): tensor for *_, tensor in _replaced(root, dtype, from_fp32, channels_last)}
    return sum(tensor.numel() for tensor in replaced.values()) * dtype.itemsize


@torch.inference_mode()  # weights loaded by a node are read in that mode only
def convert(
    root: torch.nn.Module, dtype: torch.dtype, *, from_fp32: bool = False, channels_last: bool = False
) -> Conversion:
    """Converts the weights that are in a half format, in new memory; the old ones are kept for the way back.

    Args:
        from_fp32: parameters in fp32 are converted as well; buffers in fp32 are so on purpose.
        channels_last: convolutions' weights are laid out as (out, height, width, in), whatever their format was.
    """
    originals: list[tuple[Weights, str, torch.Tensor]] = []
    done: dict[int, torch.Tensor] = {}
    for module, weights, name, tensor in _replaced(root, dtype, from_fp32, channels_last):
        last = channels_last and isinstance(module, torch.nn.Conv2d) and tensor.ndim == 4
        layout = torch.channels_last if last else torch.preserve_format
        if id(tensor) not in done:  # modules may share a weight
            given = by_way_of_fp32(tensor.detach(), dtype)
            done[id(tensor)] = _like(tensor, given.to(dtype, memory_format=layout))
        originals.append((weights, name, tensor))
        weights[name] = done[id(tensor)]
    return Conversion(tuple(originals))


def _like(original: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    is_parameter = isinstance(original, torch.nn.Parameter)
    return torch.nn.Parameter(values, requires_grad=False) if is_parameter else values


def _replaced(root: torch.nn.Module, dtype: torch.dtype, from_fp32: bool, channels_last: bool) -> list[_Entry]:
    return [*_convertible(root, dtype, from_fp32), *(_convolutions(root, dtype) if channels_last else ())]


def _convolutions(root: torch.nn.Module, dtype: torch.dtype) -> Iterator[_Entry]:
    """The weights of convolutions that have the dtype already."""
    for module in root.modules():
        weight = module.weight if isinstance(module, torch.nn.Conv2d) else None
        if type(weight) is torch.nn.Parameter and weight.dtype == dtype:
            yield module, module._parameters, "weight", weight


def _convertible(root: torch.nn.Module, dtype: torch.dtype, from_fp32: bool) -> Iterator[_Entry]:
    """The plain tensors whose format is to be replaced."""
    parameters = {*HALVES, *((torch.float32,) if from_fp32 else ())} - {dtype}
    for module in root.modules():
        kinds: tuple[tuple[Weights, set[torch.dtype]], ...] = (
            (module._parameters, parameters),
            (module._buffers, set(HALVES) - {dtype}),
        )
        for weights, replaced in kinds:
            for name, tensor in weights.items():
                if type(tensor) in (torch.nn.Parameter, torch.Tensor) and tensor.dtype in replaced:
                    yield module, weights, name, tensor
