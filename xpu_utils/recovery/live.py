"""The tensors of this process on a device, whoever holds them."""

from __future__ import annotations

import gc

import torch


def live_tensors(device: torch.device) -> list[torch.Tensor]:
    """Every tensor on the device that has memory of its own, views too; those that others are made of, one by one.

    Looking at all objects of the process takes some tenths of a second.
    """
    kind = torch.Tensor
    with torch._C.DisableTorchFunctionSubclass():
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]
        return [tensor for tensor in tensors if tensor.device == device and not hasattr(tensor, "__tensor_flatten__")]


def read_a_value_of_each(device: torch.device) -> None:
    """Has something of every tensor on the device be read to the host."""
    read: set[int] = set()
    with torch._C.DisableTorchFunctionSubclass():
        for tensor in live_tensors(device):
            memory = tensor.untyped_storage().data_ptr()
            if tensor.numel() and memory not in read:
                read.add(memory)
                tensor.detach().as_strided((1,), (1,), tensor.storage_offset()).cpu()
