"""What can be placed, and how stock ComfyUI and this pack each have it compute somewhere."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd1_clip import SDClipModel

from xpu_utils.host.running.clip import place_clip
from xpu_utils.host.running.controlnet import place_controlnet
from xpu_utils.host.running.sampling import place_model
from xpu_utils.host.running.vae import place_vae
from xpu_utils.host.target import clone_for
from xpu_utils.placement import Placement

from .controls import Controlled

HOST = torch.device("cpu")


class Handling(Protocol):
    """A kind of object that nodes hand on."""

    def patcher(self, thing: Any) -> Any:
        """The patcher of what is placed, that the ladder leads elsewhere."""

    def place(self, thing: Any, asked: Placement) -> Any:
        """As our nodes do."""

    def stock_on(self, thing: Any, device: torch.device) -> Any:
        """The same for stock ComfyUI to compute there."""

    def stock_in(self, thing: Any, dtype: torch.dtype) -> Any:
        """The same for stock ComfyUI to compute in another format, on weights of its own."""


class Models:
    """MODEL."""

    def patcher(self, thing: Any) -> Any:
        return thing

    def place(self, thing: Any, asked: Placement) -> Any:
        return place_model(thing, asked)[0]

    def stock_on(self, thing: Any, device: torch.device) -> Any:
        return clone_for(thing, device)

    def stock_in(self, thing: Any, dtype: torch.dtype) -> Any:
        rounded = thing.clone()
        rounded.set_model_compute_dtype(dtype)
        return rounded


class Vaes:
    """VAE."""

    def patcher(self, thing: Any) -> Any:
        return thing.patcher

    def place(self, thing: Any, asked: Placement) -> Any:
        return place_vae(thing, asked)[0]

    def stock_on(self, thing: Any, device: torch.device) -> Any:
        there = copy.copy(thing)
        there.patcher, there.device = clone_for(thing.patcher, device), device
        return there

    def stock_in(self, thing: Any, dtype: torch.dtype) -> Any:
        rounded = copy.copy(thing)
        rounded.first_stage_model = copy.deepcopy(thing.first_stage_model).to(dtype)
        rounded.patcher = ModelPatcher(rounded.first_stage_model, load_device=HOST, offload_device=HOST)
        rounded.vae_dtype = dtype
        return rounded


class Texts:
    """CLIP."""

    def patcher(self, thing: Any) -> Any:
        return thing.patcher

    def place(self, thing: Any, asked: Placement) -> Any:
        return place_clip(thing, asked)[0]

    def stock_on(self, thing: Any, device: torch.device) -> Any:
        there = thing.clone()
        there.patcher = clone_for(thing.patcher, device)
        return there

    def stock_in(self, thing: Any, dtype: torch.dtype) -> Any:
        """ComfyUI's transformers take the format to compute in, and are given fp32 by ComfyUI."""
        rounded = thing.clone()
        rounded.cond_stage_model = copy.deepcopy(thing.cond_stage_model)
        rounded.patcher = ModelPatcher(rounded.cond_stage_model, load_device=HOST, offload_device=HOST)
        for module in rounded.cond_stage_model.modules():
            if isinstance(module, SDClipModel):
                module.transformer.forward = functools.partial(_computing_in, dtype, module.transformer.forward)
        return rounded


def _computing_in(dtype: torch.dtype, stock: Any, /, *arguments: Any, **keywords: Any) -> Any:
    embeds = keywords.get("embeds")
    changed = {"dtype": dtype} if embeds is None else {"dtype": dtype, "embeds": embeds.to(dtype)}
    return stock(*arguments, **{**keywords, **changed})


class Controls:
    """CONTROL_NET, beside a MODEL on the same device."""

    def patcher(self, thing: Controlled) -> Any:
        return thing.model

    def place(self, thing: Controlled, asked: Placement) -> Controlled:
        return Controlled(place_model(thing.model, asked)[0], place_controlnet(thing.control, asked)[0])

    def stock_on(self, thing: Controlled, device: torch.device) -> Controlled:
        control = thing.control.copy()
        if hasattr(control, "control_model_wrapped"):
            control.control_model_wrapped = clone_for(thing.control.control_model_wrapped, device)
            control.load_device = device
        else:
            control.device = control.load_device = device
        return Controlled(clone_for(thing.model, device), control)

    def stock_in(self, thing: Controlled, dtype: torch.dtype) -> Controlled:
        model, control = thing.model.clone(), thing.control.copy()
        model.set_model_compute_dtype(dtype)
        if hasattr(control, "control_model_wrapped"):  # what has none computes in the model's
            control.control_model = copy.deepcopy(thing.control.control_model).to(dtype)
            control.control_model.dtype = dtype
            patcher = ModelPatcher(control.control_model, load_device=HOST, offload_device=HOST)
            control.control_model_wrapped = patcher
        return Controlled(model, control)


HANDLINGS: Mapping[str, Handling] = {"MODEL": Models(), "VAE": Vaes(), "CLIP": Texts(), "CONTROL_NET": Controls()}
"""By a subject's kind."""
