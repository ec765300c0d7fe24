"""VAE nodes: decode and encode on a chosen device, with results that are checked."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.running import coding
from .base import SAMPLING, XPUNode


class XPUVAEDecode(XPUNode):
    """Decodes a latent into a picture on the chosen device.

    auto leaves a VAE where a loader or place node of this pack put it. A black picture (NaN) is refused, with the
    name of what spoiled it.
    """

    TITLE = "XPU VAE Decode"
    STAGE = "decode"
    CATEGORY = SAMPLING
    LEAVES_PLACED = True
    ALIASES = ("VAEDecode",)
    OUTPUTS = (io.Image,)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            io.Latent.Input("samples", tooltip="The latent to decode."),
            io.Vae.Input("vae", tooltip="The VAE that decodes."),
        ]

    @classmethod
    def execute(cls, samples: Any, vae: Any, device: str = AUTO, precision: str = AUTO) -> io.NodeOutput:
        return cls.run(lambda: coding.decode(vae, samples, device, precision))


class XPUVAEEncode(XPUNode):
    """Encodes a picture into a latent on the chosen device."""

    TITLE = "XPU VAE Encode"
    STAGE = "encode"
    CATEGORY = SAMPLING
    LEAVES_PLACED = True
    ALIASES = ("VAEEncode",)
    OUTPUTS = (io.Latent,)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            io.Image.Input("pixels", tooltip="The picture to encode."),
            io.Vae.Input("vae", tooltip="The VAE that encodes."),
        ]

    @classmethod
    def execute(cls, pixels: Any, vae: Any, device: str = AUTO, precision: str = AUTO) -> io.NodeOutput:
        return cls.run(lambda: coding.encode(vae, pixels, device, precision))


NODES = (XPUVAEDecode, XPUVAEEncode)
