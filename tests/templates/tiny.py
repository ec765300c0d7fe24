"""Tiny model files in the layouts that ComfyUI's own loaders read, and how its detectors know them.

A mark among a file's keys names its family, since detectors know families by their real widths. Files hold as many
layers as real ones, but narrow.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import torch

from tests.families import vaes
from tests.families.family import configured
from tests.families.shrinking import shrunk
from tests.families.texts import CLIP, LANGUAGE, T5, VISION

from .models import CONTROLS, ENCODERS, MODELS

MARK = "tiny:"
OF_ITS_WIDTH = "Qwen3_06B"
"""ACE-Step tells it from its other one by that."""
LARGEST = 128
"""Pixels of a side."""
EYES = {
    **VISION,
    "comfy.clip_model.CLIPVision": {"config_dict": {"intermediate_size": 128, "num_hidden_layers": 2}},
}
"""As wide as real ones: models take that for granted."""
VAES = {vae.name: vae for vae in vaes.FAMILIES}


def mark(name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """A key that tells which tiny thing a file holds."""
    return {f"{prefix}{MARK}{name}": torch.zeros(1, dtype=torch.bfloat16)}


def marked_as(weights: Any, prefix: str = "") -> str | None:
    """The name of what a state dict holds under a prefix; None of files that are not tiny."""
    names = (key.removeprefix(prefix + MARK) for key in weights or () if key.startswith(prefix + MARK))
    return next(names, None)


@contextlib.contextmanager
def tiny_models() -> Iterator[None]:
    """In the block, this process's ComfyUI knows tiny files, and scales nothing to many pixels."""
    import comfy.clip_vision
    import comfy.controlnet
    import comfy.model_detection
    import comfy.sd
    import comfy.utils

    with contextlib.ExitStack() as patches:
        for owner, name, tiny in (
            (comfy.model_detection, "model_config_from_unet", _model_config),
            (comfy.sd, "detect_te_model", _encoder),
            (comfy.sd, "load_text_encoder_state_dicts", _narrow_where_marked),
            (comfy.sd, "load_state_dict_guess_config", _narrow_where_marked),
            (comfy.clip_vision, "load_clipvision_from_sd", _narrow_where_marked),
            (comfy.controlnet, "load_controlnet_state_dict", _control),
            (comfy.sd.VAE, "__init__", _vae),
            (comfy.utils, "common_upscale", _scaled),
        ):
            patches.enter_context(mock.patch.object(owner, name, _with(tiny, getattr(owner, name))))
        yield


def _with(tiny: Callable[..., Any], stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def call(*arguments: Any, **keywords: Any) -> Any:
        return tiny(stock, *arguments, **keywords)

    return call


def _model_config(stock: Callable[..., Any], weights: Any, prefix: str, *rest: Any, **told: Any) -> Any:
    name = marked_as(weights, prefix)
    if name is None:
        return stock(weights, prefix, *rest, **told)
    family = MODELS[CONTROLS[name].family.name if name in CONTROLS else name]
    config = configured(family.name, {**family.network, **family.newer})
    config.get_model = functools.partial(_made, config, config.get_model, family.newer)
    return config


def _made(config: Any, stock: Callable[..., Any], newer: Mapping[str, Any], *rest: Any, **told: Any) -> Any:
    try:
        return stock(*rest, **told)
    except TypeError:
        for name in newer:  # an older host
            config.unet_config.pop(name, None)
        return stock(*rest, **told)


def _encoder(stock: Callable[..., Any], weights: Any) -> Any:
    import comfy.sd

    name = marked_as(weights)
    return stock(weights) if name is None else comfy.sd.TEModel[ENCODERS[name].kind]


def _control(stock: Callable[..., Any], weights: Any, *rest: Any, **told: Any) -> Any:
    name = marked_as(weights)
    with shrunk({CONTROLS[name].network: CONTROLS[name].arguments} if name else {}):
        return stock(weights, *rest, **told)


def _vae(stock: Callable[..., None], self: Any, sd: Any = None, *rest: Any, **told: Any) -> None:
    name = marked_as(sd)
    if name is None:
        stock(self, sd, *rest, **told)
        return
    vae, load = VAES[name], torch.nn.Module.load_state_dict
    weights = {key: weight for key, weight in sd.items() if MARK not in key}

    def loaded(module: torch.nn.Module, _: Any, **options: Any) -> Any:
        return load(module, weights, **options)

    if vae.metadata is not None:
        told["metadata"] = dict(vae.metadata)
    keys = {key: torch.zeros(shape) for key, shape in vae.keys.items()}
    with shrunk(vae.sizes), mock.patch.object(torch.nn.Module, "load_state_dict", loaded):
        stock(self, keys, *rest, **told)


def _narrow_where_marked(stock: Callable[..., Any], weights: Any, *rest: Any, **told: Any) -> Any:
    every = weights if isinstance(weights, list) else [weights]
    tiny = any(MARK in key for one in every for key in one)
    with narrow() if tiny else contextlib.nullcontext():
        return stock(weights, *rest, **told)


def _scaled(stock: Callable[..., Any], samples: Any, width: int, height: int, *rest: Any, **told: Any) -> Any:
    """Some nodes scale to sizes of their own, such as a million pixels."""
    factor = min(1.0, LARGEST / max(width, height))
    if factor < 1:
        width, height = (max(32, round(side * factor / 32) * 32) for side in (width, height))
    return stock(samples, width, height, *rest, **told)


@contextlib.contextmanager
def narrow() -> Iterator[None]:
    """In the block, what text encoders compute with is narrow, with all its layers and tokens."""
    import comfy.clip_model
    import comfy.sd1_clip

    stock = comfy.sd1_clip.SDClipModel.__init__

    def made(self: Any, *arguments: Any, **keywords: Any) -> None:
        kind = keywords.get("model_class", comfy.clip_model.CLIPTextModel)
        stock(self, *arguments, **{**keywords, "model_class": functools.partial(_network, kind)})

    with shrunk(EYES), mock.patch.object(comfy.sd1_clip.SDClipModel, "__init__", made):
        yield


def _network(kind: Callable[..., Any], config: dict[str, Any], *rest: Any) -> Any:
    if "d_model" in config:
        return kind({**config, **_widths(T5)}, *rest)
    if "hidden_size" in config and "vocab_size" in config:
        return kind({**config, **_widths(CLIP)}, *rest)
    small = {**config, **_widths(LANGUAGE)}
    if kind.__name__.startswith(OF_ITS_WIDTH):
        del small["hidden_size"]
    try:
        return kind({**small, "num_key_value_heads": 1}, *rest)
    except TypeError:
        return kind(small, *rest)


def _widths(sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: size for name, size in sizes.items() if name not in ("vocab_size", "num_hidden_layers", "num_layers")}
