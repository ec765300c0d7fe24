"""Places whatever ComfyUI's loaders make, by what it is."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
import comfy.controlnet
import comfy.model_base
import comfy.model_patcher
import comfy.sd

from ...placement import Placement
from ..inventory import left_where_it_is
from .clip import place_clip
from .clip_vision import place_clip_vision
from .controlnet import place_controlnet
from .sampling import place_model
from .upscaling import PlacedUpscaler, place_upscaler
from .vae import place_vae


def place(thing: Any, asked: Placement) -> tuple[Any, Placement]:
    """Places a MODEL, CLIP, VAE (also of audio or video), CONTROL_NET, CLIP_VISION or UPSCALE_MODEL.

    A MODEL_PATCH, and what else ComfyUI loads by itself, stays as it is, and the placement says so.

    Raises:
        ValueError: nothing of this kind runs on a device, or the file lacked this part.
    """
    from spandrel import ImageModelDescriptor

    if thing is None:
        raise ValueError("The loader's file holds no such part: load it by its own loader and connect that instead.")
    places = (
        (comfy.sd.CLIP, place_clip),
        (comfy.sd.VAE, place_vae),
        (comfy.controlnet.ControlBase, place_controlnet),
        (comfy.clip_vision.ClipVisionModel, place_clip_vision),
        ((ImageModelDescriptor, PlacedUpscaler), place_upscaler),
    )
    for kind, place_it in places:
        if isinstance(thing, kind):
            return place_it(thing, asked)
    if isinstance(thing, comfy.model_patcher.ModelPatcher):
        if isinstance(thing.model, comfy.model_base.BaseModel):
            return place_model(thing, asked)
        return thing, left_where_it_is(asked, "a model patch runs where the model runs that it is for")
    if hasattr(getattr(thing, "device_manager", thing), "patcher"):  # or LTX's audio VAE's, of older ComfyUI
        return thing, left_where_it_is(asked, "ComfyUI alone decides where this kind of model runs")
    raise ValueError(
        f"XPU Place was given {type(thing).__name__}, which does not run on a device: connect the output of a loader, "
        "such as MODEL, CLIP or VAE."
    )
