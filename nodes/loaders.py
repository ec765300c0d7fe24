"""Loader nodes: the stock loader's inputs, plus where to and in which precision."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.choices import WEIGHT_DTYPES, clip_types, model_files, vae_names
from ..xpu_utils.host.loading import load as loading
from ..xpu_utils.placement import Placement
from .base import LOADERS, XPUModelNode, XPUNode, accepted, asked_for

_WEIGHT_DTYPE = "default, or an fp8 format that the weights are kept in; they are computed with in the precision."
_TYPE = "The family, as in the stock loaders of one file and of two."
_FURTHER = "A further file of the encoder; none where it has no more."
_VAE = "What the stock loader offers: a file of the folder vae, a small decoder of vae_approx, or pixel_space."


def file_input(name: str, folder: str) -> io.Combo.Input:
    return io.Combo.Input(name, options=model_files(folder), tooltip=f"A file of the folder {folder}.")


class FileLoader(XPUNode):
    """A loader of one file."""

    CATEGORY = LOADERS
    FILE: tuple[str, str]
    """The input's name, and the models folder it lists."""

    @classmethod
    def load(cls, name: str, placement: Placement) -> tuple[Any, Placement]:
        raise NotImplementedError

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [file_input(*cls.FILE)]

    @classmethod
    def execute(cls, device: str = AUTO, precision: str = AUTO, resident: str = AUTO, **file: str) -> io.NodeOutput:
        return cls.run(lambda: cls.load(file[cls.FILE[0]], asked_for(device, precision, resident)))


class XPULoadCheckpoint(FileLoader, XPUModelNode):
    """Loads a checkpoint onto the chosen device, in the chosen precision.

    MODEL, CLIP and VAE are placed on that device; a part that the file does not hold stays empty. Damaged,
    truncated or unsafe files are refused in one sentence.
    """

    TITLE, STAGE = "XPU Load Checkpoint", "load checkpoint"
    ALIASES = ("CheckpointLoaderSimple",)
    FILE, OUTPUTS = ("ckpt_name", "checkpoints"), (io.Model, io.Clip, io.Vae)
    load = staticmethod(loading.load_checkpoint)


class XPULoadDiffusionModel(XPUModelNode):
    """Loads a diffusion model (UNet or transformer) onto the chosen device, in the chosen precision.

    weight_dtype keeps the weights in an fp8 format to save memory; they are computed with in the precision.
    """

    TITLE = "XPU Load Diffusion Model"
    STAGE = "load diffusion model"
    CATEGORY = LOADERS
    ALIASES = ("UNETLoader", "load unet")
    OUTPUTS = (io.Model,)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            file_input("unet_name", "diffusion_models"),
            io.Combo.Input("weight_dtype", options=list(WEIGHT_DTYPES), default="default", tooltip=_WEIGHT_DTYPE),
        ]

    @classmethod
    def validate_inputs(
        cls, device: object = None, precision: object = None, resident: object = None, weight_dtype: object = None
    ) -> bool | str:
        return accepted(device=device, precision=precision, resident=resident, weight_dtype=weight_dtype)

    @classmethod
    def execute(
        cls, unet_name: str, weight_dtype: str, device: str = AUTO, precision: str = AUTO, resident: str = AUTO
    ) -> io.NodeOutput:
        return cls.run(
            lambda: loading.load_diffusion_model(unet_name, weight_dtype, asked_for(device, precision, resident))
        )


class XPULoadCLIP(XPUNode):
    """Loads a text encoder made of one to four files onto the chosen device.

    type is the family the encoder belongs to, as in the stock loaders: stable_diffusion, sdxl, sd3, flux, ...
    """

    TITLE = "XPU Load CLIP"
    STAGE = "load text encoder"
    CATEGORY = LOADERS
    ALIASES = ("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader", "QuadrupleCLIPLoader", "load text encoder")
    OUTPUTS = (io.Clip,)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            file_input("clip_name", "text_encoders"),
            io.Combo.Input("type", options=clip_types(), default="stable_diffusion", tooltip=_TYPE),
        ]

    @classmethod
    def last_inputs(cls) -> list[io.Input]:
        options = ["none", *model_files("text_encoders")]
        names = ("clip_name2", "clip_name3", "clip_name4")
        return [io.Combo.Input(name, options=options, optional=True, tooltip=_FURTHER) for name in names]

    @classmethod
    def validate_inputs(cls, device: object = None, precision: object = None, type: object = None) -> bool | str:
        return accepted(device=device, precision=precision, type=type)

    @classmethod
    def execute(
        cls,
        clip_name: str,
        type: str,
        device: str = AUTO,
        precision: str = AUTO,
        **further: str,
    ) -> io.NodeOutput:
        names = [clip_name, *(name for _, name in sorted(further.items()) if name != "none")]  # in no order in a prompt
        device = AUTO if device == "default" else device  # as the stock loader's own device input calls it
        return cls.run(lambda: loading.load_clip(names, type, asked_for(device, precision)))


class XPULoadVAE(FileLoader):
    """Loads a VAE onto the chosen device, in the chosen precision.

    Offers what the stock loader does, small decoders such as taesd and pixel_space included.
    """

    TITLE, STAGE = "XPU Load VAE", "load VAE"
    ALIASES = ("VAELoader",)
    FILE, OUTPUTS = ("vae_name", "vae"), (io.Vae,)
    load = staticmethod(loading.load_vae)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [io.Combo.Input("vae_name", options=vae_names(), tooltip=_VAE)]


class XPULoadControlNet(FileLoader):
    """Loads a ControlNet onto the chosen device, which may be another than the sampled model's."""

    TITLE, STAGE = "XPU Load ControlNet", "load ControlNet"
    ALIASES = ("ControlNetLoader",)
    FILE, OUTPUTS = ("control_net_name", "controlnet"), (io.ControlNet,)
    load = staticmethod(loading.load_controlnet)


class XPULoadCLIPVision(FileLoader):
    """Loads a CLIP vision model onto the chosen device."""

    TITLE, STAGE = "XPU Load CLIP Vision", "load CLIP vision"
    ALIASES = ("CLIPVisionLoader",)
    FILE, OUTPUTS = ("clip_name", "clip_vision"), (io.ClipVision,)
    load = staticmethod(loading.load_clip_vision)


class XPULoadUpscaleModel(FileLoader):
    """Loads an upscale model that stays on the chosen device, whatever node uses it."""

    TITLE, STAGE = "XPU Load Upscale Model", "load upscale model"
    ALIASES = ("UpscaleModelLoader",)
    FILE, OUTPUTS = ("model_name", "upscale_models"), (io.UpscaleModel,)
    load = staticmethod(loading.load_upscale_model)


NODES = (
    XPULoadCheckpoint,
    XPULoadDiffusionModel,
    XPULoadCLIP,
    XPULoadVAE,
    XPULoadControlNet,
    XPULoadCLIPVision,
    XPULoadUpscaleModel,
)
