"""Upscale node: pictures stay in host memory, so that they outlive a device."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.running import upscaling
from .base import SAMPLING, XPUNode


class XPUUpscaleImage(XPUNode):
    """Upscales pictures with an upscale model on the chosen device, in ComfyUI's own tiles.

    auto leaves a model where a loader of this pack put it. Tiles get smaller where memory runs out; after the
    smallest, or when the device is lost, the CPU carries on.
    """

    TITLE = "XPU Upscale Image (using Model)"
    STAGE = "upscale"
    CATEGORY = SAMPLING
    LEAVES_PLACED = True
    ALIASES = ("ImageUpscaleWithModel",)
    OUTPUTS = (io.Image,)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            io.UpscaleModel.Input("upscale_model", tooltip="The model that upscales."),
            io.Image.Input("image", tooltip="The pictures to upscale."),
        ]

    @classmethod
    def execute(cls, upscale_model: Any, image: Any, device: str = AUTO, precision: str = AUTO) -> io.NodeOutput:
        return cls.run(lambda: upscaling.upscale(upscale_model, image, device, precision))


NODES = (XPUUpscaleImage,)
