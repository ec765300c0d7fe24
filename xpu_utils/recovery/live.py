"""The tensors of this process on a device, whoever holds them."""

from __future__ import annotations

import gc
from typing import Any

import torch


def live_tensors(device: torch.device) -> list[torch.Tensor]:
    """Every tensor on the device that has memory of its own, views too; those that others are made of, one by one.

    Sparse tensors have none, nor have those of a library's own layout.

    Looking at all objects of the process takes some tenths of a second.
    """
    with torch._C.DisableTorchFunctionSubclass():
        return [
            tensor
            for tensor in _of_kinds(_with_subclasses(torch.Tensor))
            if tensor.device == device and tensor.layout == torch.strided and not hasattr(tensor, "__tensor_flatten__")
        ]


def read_a_value_of_each(device: torch.device) -> None:
    """Has something of every tensor on the device be read to the host."""
    read: set[int] = set()
    with torch._C.DisableTorchFunctionSubclass():
        for tensor in live_tensors(device):
            memory = tensor.untyped_storage().data_ptr()
            if tensor.numel() and memory not in read:
                read.add(memory)
                tensor.detach().as_strided((1,), (1,), tensor.storage_offset()).cpu()


def _of_kinds(kinds: set[type]) -> list[Any]:
    """All objects of these types, among what refers to these.

    Only that is held meanwhile: another thread that is building a tuple fails, or worse, while anybody else holds it.
    """
    return [thing for thing in gc.get_referrers(*kinds) if type(thing) in kinds]


def _with_subclasses(kind: type) -> set[type]:
    return {kind}.union(*map(_with_subclasses, kind.__subclasses__()))
