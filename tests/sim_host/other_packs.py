"""What other packs do with models, in little, for the cases of the switch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import comfy.lora
import comfy.ops
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher


class Packed(torch.Tensor):
    """A weight in whole numbers and with its scale, as GGUF's pack has them: a tensor of a kind of its own."""

    scale: float
    patches: tuple[Any, ...] = ()

    @staticmethod
    def of(weight: torch.Tensor) -> Packed:
        scale = float(weight.abs().max()) / 127
        packed = (weight.float() / scale).round().to(torch.int8).as_subclass(Packed)
        packed.scale = scale
        return packed

    def to(self, *arguments: Any, **keywords: Any) -> Packed:
        moved: Packed = super().to(*arguments, **keywords)
        moved.scale, moved.patches = self.scale, self.patches
        return moved

    def detach(self) -> Packed:
        return self

    def unpacked(self, dtype: torch.dtype) -> torch.Tensor:
        weight = self.as_subclass(torch.Tensor).to(dtype) * self.scale
        return comfy.lora.calculate_weight(list(self.patches), weight, "") if self.patches else weight


class Operations(comfy.ops.manual_cast):
    """ComfyUI's layers, of which linear ones unpack their weight for each call."""

    class Linear(comfy.ops.manual_cast.Linear):
        def _load_from_state_dict(self, state_dict: Any, prefix: str, *further: Any) -> None:
            super()._load_from_state_dict(state_dict, prefix, *further)
            self.weight = torch.nn.Parameter(Packed.of(self.weight), requires_grad=False)

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            weight = self.weight.to(values.device).unpacked(values.dtype)
            bias = None if self.bias is None else self.bias.to(values)
            return torch.nn.functional.linear(values, weight, bias)


class PackedPatcher(ModelPatcher):
    """Stays of its kind in clones; packed weights carry their patches, and apply them each time."""

    def load(self, *arguments: Any, force_patch_weights: bool = False, **keywords: Any) -> None:
        super().load(*arguments, force_patch_weights=True, **keywords)

    def patch_weight_to_device(self, key: str, device_to: Any = None, **keywords: Any) -> None:
        weight = comfy.utils.get_attr(self.model, key)
        if key not in self.patches or not isinstance(weight, Packed):
            super().patch_weight_to_device(key, device_to, **keywords)
        else:
            moved = weight.to(device_to)
            moved.patches = tuple(self.patches[key])
            comfy.utils.set_attr_param(self.model, key, moved)

    def unpatch_model(self, *arguments: Any, unpatch_weights: bool = True, **keywords: Any) -> None:
        for weight in self.model.parameters() if unpatch_weights else ():
            if isinstance(weight, Packed):
                weight.patches = ()
        super().unpatch_model(*arguments, unpatch_weights=unpatch_weights, **keywords)

    def clone(self, *arguments: Any, **keywords: Any) -> Any:
        kind, self.__class__ = self.__class__, PackedPatcher
        copy = super().clone(*arguments, **keywords)
        copy.__class__, self.__class__ = PackedPatcher, kind
        return copy


def load_packed(path: str) -> Any:
    """A MODEL as GGUF's loader makes it: quantised weights in ComfyUI's network."""
    weights = comfy.utils.load_torch_file(path)
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"custom_operations": Operations})
    return PackedPatcher.clone(model)


def load_unremembered(path: str) -> Any:
    """A MODEL that is ComfyUI's but was made of weights that the pack has read itself, in fp32."""
    weights = comfy.utils.load_torch_file(path)
    return comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.float32})


class Network(torch.nn.Module):
    """A network of the pack's own, with kernels of its own behind the same interface, as Nunchaku's are."""

    def __init__(self, stock: torch.nn.Module) -> None:
        super().__init__()
        self.stock = stock

    @property
    def dtype(self) -> torch.dtype:
        return self.stock.dtype

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        return self.stock(*arguments, **keywords)


def load_own_network(path: str) -> Any:
    """A MODEL with a network that the pack brings."""
    model = load_unremembered(path)
    model.model.diffusion_model = Network(model.model.diffusion_model)
    return model


LOADERS = {"GGUF-like": load_packed, "read by the pack": load_unremembered, "Nunchaku-like": load_own_network}


@contextlib.contextmanager
def meddling() -> Iterator[list[str]]:
    """A pack that has replaced a loader of core's, and wraps its sampling and decoding; answers who was called."""
    called: list[str] = []
    stock_load, stock_sample, stock_decode = (
        comfy.sd.load_diffusion_model,
        comfy.samplers.CFGGuider.sample,
        comfy.sd.VAE.decode,
    )

    def read_model(unet_path: str, model_options: Any = {}) -> Any:  # noqa: B006
        called.append("load")
        return stock_load(unet_path, model_options)

    @functools.wraps(stock_sample)
    def sample(*arguments: Any, **keywords: Any) -> Any:
        called.append("sample")
        return stock_sample(*arguments, **keywords)

    def their_decode(vae: Any, *arguments: Any, **keywords: Any) -> Any:
        called.append("decode")
        return stock_decode(vae, *arguments, **keywords)

    comfy.sd.load_diffusion_model = read_model
    comfy.samplers.CFGGuider.sample = sample
    comfy.sd.VAE.decode = their_decode
    try:
        yield called
    finally:
        comfy.sd.load_diffusion_model = stock_load
        comfy.samplers.CFGGuider.sample = stock_sample
        comfy.sd.VAE.decode = stock_decode
