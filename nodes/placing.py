"""Place nodes: what the loaders do about devices, for objects that any other loader made."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.running.clip import place_clip
from ..xpu_utils.host.running.sampling import place_model
from ..xpu_utils.host.running.vae import place_vae
from .base import PLACE, XPUModelNode, XPUNode, asked_for


class XPUPlaceModel(XPUModelNode):
    """Moves a MODEL from any loader to the chosen device; LoRA and other patches stay on it.

    The weights are not copied: they move when the model is used. Of a model that is larger than the device a part
    stays there, as much as the input resident says; the rest is copied there piece by piece while it computes.
    """

    TITLE = "XPU Place Model"
    STAGE = "place model"
    CATEGORY = PLACE
    ALIASES = ("select model device", "move model")
    OUTPUTS = (io.Model,)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [io.Model.Input("model", tooltip="The MODEL to move.")]

    @classmethod
    def execute(cls, model: Any, device: str = AUTO, precision: str = AUTO, resident: str = AUTO) -> io.NodeOutput:
        return cls.run(lambda: place_model(model, asked_for(device, precision, resident)))


class XPUPlaceCLIP(XPUNode):
    """Moves a CLIP from any loader to the chosen device."""

    TITLE = "XPU Place CLIP"
    STAGE = "place text encoder"
    CATEGORY = PLACE
    ALIASES = ("select clip device", "move text encoder")
    OUTPUTS = (io.Clip,)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [io.Clip.Input("clip", tooltip="The CLIP to move.")]

    @classmethod
    def execute(cls, clip: Any, device: str = AUTO, precision: str = AUTO) -> io.NodeOutput:
        return cls.run(lambda: place_clip(clip, asked_for(device, precision)))


class XPUPlaceVAE(XPUNode):
    """Moves a VAE from any loader to the chosen device.

    Another precision than the VAE has gives it converted weights of its own.
    """

    TITLE = "XPU Place VAE"
    STAGE = "place VAE"
    CATEGORY = PLACE
    ALIASES = ("select vae device", "move vae")
    OUTPUTS = (io.Vae,)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [io.Vae.Input("vae", tooltip="The VAE to move.")]

    @classmethod
    def execute(cls, vae: Any, device: str = AUTO, precision: str = AUTO) -> io.NodeOutput:
        return cls.run(lambda: place_vae(vae, asked_for(device, precision)))


NODES = (XPUPlaceModel, XPUPlaceCLIP, XPUPlaceVAE)
