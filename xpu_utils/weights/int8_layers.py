"""A network's linear layers held in int8: which, how they compute, and the way back.

A layer stays the module that it is, of a class that knows what its weight means. So whatever a host does with layers
(loads, moves, patches, backs up) it does with these, and packs that look for linear layers find them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..int8 import FEWEST_TOKENS, dequantised, linear, linear_by_floats, loss, pack

LARGEST_LOSS = 0.02
"""Of a weight, relative: one of normal values loses 0.008, and the products of such add 0.009 to a call's error."""

_HELD = "held_in_int8"
"""On a network: `hold` came to its end."""

LEAST_SIDE = 64
"""Smaller layers are not worth it."""

_SENSITIVE = re.compile(r"(?:^|[._])(?:t?emb|mod(?!el|al|ule)|time)")
"""Words in the names of layers that all others follow: embeddings of the time and the prompt, modulations by them."""

_IN_A_BLOCK = re.compile(r"(^|\.)\d+\.")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)

Products = Callable[[torch.device, int, int], bool]
"""Whether int8 products of a layer (channels in, out) are right and faster on a device; else it computes in floats."""


@dataclasses.dataclass(frozen=True)
class Int8Use:
    """How the layers of a network compute."""

    products: Products
    before: Callable[[], None]
    """What the layers' own forwards do first."""
    columns: bool = False
    """How the weights are laid out; see `pack`."""


class Int8Layer(nn.Linear):
    """Mixed into the class of a linear layer: its weight is packed, and the host's patches are told what it means."""

    int8: Int8Use
    weight_function: Collection[Callable[[torch.Tensor], torch.Tensor]] = ()
    bias_function: Collection[Callable[[torch.Tensor], torch.Tensor]] = ()
    """Patches that a host applies at every use, where it has not written them into the weights."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """given W^T + bias, (..., in) to (..., out)."""
        if "int8" not in vars(self):  # in floats again, with this left on it: see `_uncover`
            return type(self).forward(self, given)
        self.int8.before()
        packed: torch.Tensor = self.weight.to(given.device)
        bias: torch.Tensor | None = self.bias
        if bias is not None:
            bias = bias.to(given.device, given.dtype)
            for change in self.bias_function:
                bias = change(bias)
        tokens = given.shape[:-1].numel()
        patched, learns = len(self.weight_function) > 0, torch.is_grad_enabled() and given.requires_grad
        out, columns = self.out_features, self.int8.columns
        if not patched:
            in_int8 = tokens >= FEWEST_TOKENS and not learns and self.multiplies_on(given.device)
            return (linear if in_int8 else linear_by_floats)(given, packed, out, bias, columns=columns)
        weight = dequantised(packed, out, given.dtype, columns=columns)
        for change in self.weight_function:
            weight = change(weight)
        return F.linear(given, weight, bias)

    def multiplies_on(self, device: torch.device) -> bool:
        """Whether its products are in int8 there; else its weights are made floats at every use."""
        return self.int8.products(device, self.in_features, self.out_features)

    def convert_weight(self, weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """What the host adds a patch to: the weight as floats; of its packed one, which it casts, bytes are numbers."""
        if weight.shape == (self.out_features, self.in_features):  # one that is used as floats
            return weight
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        return dequantised(weight.to(torch.int8), self.out_features, dtype, columns=self.int8.columns)

    def set_weight(
        self, weight: torch.Tensor, inplace_update: bool = False, return_weight: bool = False, **_: Any
    ) -> torch.Tensor | None:
        """Takes the host's patched weight; one that is asked for back is used, or saved, as it is."""
        if return_weight:
            return weight
        packed = pack(weight, columns=self.int8.columns)
        if inplace_update:
            self.weight.data.copy_(packed)
        else:
            self.weight = nn.Parameter(packed, requires_grad=False)
        return None


@functools.cache
def _int8_class(base: Any) -> Any:
    return type(f"Int8{base.__name__}", (Int8Layer, base), {})


@dataclasses.dataclass(frozen=True)
class Holding:
    """What was replaced by layers in int8."""

    root: nn.Module
    originals: list[tuple[nn.Module, type[nn.Module], nn.Parameter]] = dataclasses.field(default_factory=list)

    def undo(self) -> None:
        """Puts the original weights back."""
        vars(self.root).pop(_HELD, None)
        for module, kind, weight in self.originals:
            module.__class__ = kind
            module._parameters["weight"] = weight
            vars(module).pop("int8", None)


@torch.inference_mode()  # weights loaded by a node are read in that mode only
def hold(root: nn.Module, kinds: Collection[type[nn.Module]], use: Int8Use, *, for_good: bool = False) -> Holding:
    """Holds the weights of a network's linear layers in int8, but for those that would lose too much.

    Those are what is outside the repeated blocks, embeddings and modulations, and weights that measure so. After a
    failure the network is as it was before.

    Args:
        kinds: the classes of linear layers whose forward is x W^T + b.
        for_good: the original weights are let go of one by one: there is no way back, but after a failure it can be
            called again.
    """
    holding = Holding(root)
    try:
        for _, module in eligible(root, kinds):
            weight = module.weight
            packed = pack(weight, columns=use.columns)
            if loss(weight, packed, columns=use.columns) <= LARGEST_LOSS:
                kind: Any = type(module)
                if not for_good:
                    holding.originals.append((module, kind, weight))
                _uncover(module)
                module.__class__, module.int8 = _int8_class(kind), use
                module._parameters["weight"] = nn.Parameter(packed, requires_grad=False)
    except BaseException:  # the host's interrupt is one
        holding.undo()
        raise
    vars(root)[_HELD] = True
    return holding


def _uncover(module: nn.Module) -> None:
    """Takes the forward of a module's class off the module: a host that ends a patch of it leaves it there."""
    if getattr(vars(module).get("forward"), "__func__", None) is type(module).forward:
        del vars(module)["forward"]


@torch.inference_mode()
def hold_again(root: nn.Module) -> None:
    """Packs what was read again from a file that holds floats into layers that are in int8."""
    for module in root.modules():
        if isinstance(module, Int8Layer) and module.weight.is_floating_point():
            packed = pack(module.weight, columns=module.int8.columns)
            module._parameters["weight"] = nn.Parameter(packed, requires_grad=False)


def holds_int8(root: nn.Module) -> bool:
    """Whether a network is held in int8: all of its layers that can be."""
    return _HELD in vars(root)


@contextlib.contextmanager
def state_in_floats(root: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """In the block a network's state dict has floats for weights that are held in int8."""

    def unpack(root: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        for name, layer in root.named_modules():
            if isinstance(layer, Int8Layer):
                state[f"{prefix}{name}.weight"] = layer.convert_weight(layer.weight.detach()).to(dtype)

    handle: Any = root.register_state_dict_post_hook(unpack)
    try:
        yield
    finally:
        handle.remove()


def eligible(root: nn.Module, kinds: Collection[type[nn.Module]]) -> Iterator[tuple[str, Any]]:
    """The linear layers that may be held in int8, before their weights are looked at."""
    within = {f"{name}." for name, module in root.named_modules() if isinstance(module, nn.ModuleList)}
    forwards = [kind.forward for kind in kinds]
    for name, module in root.named_modules():
        if type(module).forward not in forwards or not any(name.startswith(blocks) for blocks in within):
            continue
        weight: Any = module.weight
        plain = type(weight) is nn.Parameter and weight.dtype in _FLOATS
        if plain and _suits(name, weight.shape):
            yield name, module


def may_hold(name: str, shape: Sequence[int]) -> bool:
    """Whether a weight in a file is one of a layer that may be held in int8, as its name and shape tell."""
    layer, _, end = name.rpartition(".")
    return end == "weight" and len(shape) == 2 and _IN_A_BLOCK.search(layer) is not None and _suits(layer, shape)


def _suits(layer: str, shape: Sequence[int]) -> bool:
    whole = all(side >= LEAST_SIDE and side % 8 == 0 for side in shape)
    return whole and not _SENSITIVE.search(layer.removeprefix("model.diffusion_model."))
