"""Place nodes: what the loaders do about devices, for objects that any other loader made."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.running.clip import place_clip
from ..xpu_utils.host.running.place import place
from ..xpu_utils.host.running.sampling import place_model
from ..xpu_utils.host.running.vae import place_vae
from ..xpu_utils.placement import Placement
from .base import PLACE, XPUModelNode, XPUNode, asked_for, passed_through

ANY = (io.Model, io.Clip, io.Vae, io.ControlNet, io.ClipVision, io.UpscaleModel, io.Custom("MODEL_PATCH"))


class PlaceNode(XPUNode):
    """Moves an object that any loader made."""

    CATEGORY = PLACE
    NAME: str
    """What users call the object; in small letters it is the input."""

    @classmethod
    def place(cls, given: Any, /, asked: Placement) -> tuple[Any, Placement]:
        raise NotImplementedError

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [cls.OUTPUTS[0].Input(cls.NAME.lower(), tooltip=f"The {cls.NAME} to move.")]

    @classmethod
    def execute(cls, device: str = AUTO, precision: str = AUTO, resident: str = AUTO, **given: Any) -> io.NodeOutput:
        return cls.run(lambda: cls.place(given[cls.NAME.lower()], asked_for(device, precision, resident)))


class XPUPlaceModel(PlaceNode, XPUModelNode):
    """Moves a MODEL from any loader to the chosen device; LoRA and other patches stay on it.

    The weights are not copied: they move when the model is used. Of a model that is larger than the device a part
    stays there, as much as the input resident says; the rest is copied there piece by piece while it computes.
    """

    TITLE, STAGE = "XPU Place Model", "place model"
    ALIASES = ("select model device", "move model")
    NAME, OUTPUTS = "MODEL", (io.Model,)
    place = staticmethod(place_model)


class XPUPlaceCLIP(PlaceNode):
    """Moves a CLIP from any loader to the chosen device."""

    TITLE, STAGE = "XPU Place CLIP", "place text encoder"
    ALIASES = ("select clip device", "move text encoder")
    NAME, OUTPUTS = "CLIP", (io.Clip,)
    place = staticmethod(place_clip)


class XPUPlaceVAE(PlaceNode):
    """Moves a VAE from any loader to the chosen device.

    Another precision than the VAE has gives it converted weights of its own.
    """

    TITLE, STAGE = "XPU Place VAE", "place VAE"
    ALIASES = ("select vae device", "move vae")
    NAME, OUTPUTS = "VAE", (io.Vae,)
    place = staticmethod(place_vae)


class XPUPlace(XPUModelNode):
    """Moves whatever a loader made to the chosen device: MODEL, CLIP, VAE, CONTROL_NET, CLIP_VISION or UPSCALE_MODEL.

    A MODEL_PATCH runs where its model runs: it is passed through. The input resident is for a MODEL.
    """

    TITLE, STAGE, CATEGORY = "XPU Place", "place", PLACE
    ALIASES = ("move", "controlnet", "clip vision", "upscale model", "audio vae", "video vae")

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [passed_through("anything", ANY, "What to move, from any loader.")[0]]

    @classmethod
    def outputs(cls) -> list[io.Output]:
        return [passed_through("anything", ANY, "")[1]]

    @classmethod
    def execute(cls, anything: Any, device: str = AUTO, precision: str = AUTO, resident: str = AUTO) -> io.NodeOutput:
        return cls.run(lambda: place(anything, asked_for(device, precision, resident)))


NODES = (XPUPlace, XPUPlaceModel, XPUPlaceCLIP, XPUPlaceVAE)
