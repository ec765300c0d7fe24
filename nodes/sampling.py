"""Sampler nodes: the stock samplers with a device, and with results that are checked."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.choices import SAMPLERS, SCHEDULERS
from ..xpu_utils.host.running.sampling import sample
from .base import SAMPLING, XPUNode, accepted

MAX_SEED = 0xFFFFFFFFFFFFFFFF

_MODEL = "The model that removes the noise."
_SEED = "Same seed and inputs: same picture."
_CFG = "How closely the picture follows the positive prompt; too much spoils it. At 1 the negative prompt is ignored."
_DENOISE = "Below 1 a part of the picture that the latent holds remains."
_ADD_NOISE = "disable where the latent comes from another sampler that left its noise in."
_LEFTOVER = "enable where another sampler goes on from the last step."


def sampler_inputs() -> list[io.Input]:
    """The inputs that both of ComfyUI's samplers have after the seed."""
    return [
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="More steps: more detail, more time."),
        io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=_CFG),
        io.Combo.Input("sampler_name", options=SAMPLERS, tooltip="The method by which noise is removed."),
        io.Combo.Input("scheduler", options=SCHEDULERS, tooltip="How much noise each step removes."),
        io.Conditioning.Input("positive", tooltip="What the picture is to show."),
        io.Conditioning.Input("negative", tooltip="What it is not to show."),
        io.Latent.Input("latent_image", tooltip="The latent to begin from: an empty one, or a picture's."),
    ]


class SamplerNode(XPUNode):
    """One of ComfyUI's sampler nodes, its first alias, on a device."""

    STAGE = "sample"
    CATEGORY = SAMPLING
    LEAVES_PLACED = True
    OUTPUTS = (io.Latent,)

    @classmethod
    def validate_inputs(
        cls, device: object = None, precision: object = None, sampler_name: object = None, scheduler: object = None
    ) -> bool | str:
        return accepted(device=device, precision=precision, sampler_name=sampler_name, scheduler=scheduler)

    @classmethod
    def execute(
        cls, model: Any, latent_image: Any, device: str = AUTO, precision: str = AUTO, **inputs: Any
    ) -> io.NodeOutput:
        return cls.run(lambda: sample(cls.ALIASES[0], model, latent_image, device, precision, **inputs))


class XPUKSampler(SamplerNode):
    """Samples like KSampler, on the chosen device.

    auto leaves a model where a loader or place node of this pack put it. What would become a black picture (NaN)
    is refused, with the name of what spoiled it.
    """

    TITLE = "XPU KSampler"
    ALIASES = ("KSampler",)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            io.Model.Input("model", tooltip=_MODEL),
            io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=_SEED),
            *sampler_inputs(),
            io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=_DENOISE),
        ]


class XPUKSamplerAdvanced(SamplerNode):
    """Samples like KSamplerAdvanced, on the chosen device, checked as by XPU KSampler."""

    TITLE = "XPU KSampler (Advanced)"
    ALIASES = ("KSamplerAdvanced",)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            io.Model.Input("model", tooltip=_MODEL),
            io.Combo.Input("add_noise", options=["enable", "disable"], tooltip=_ADD_NOISE),
            io.Int.Input("noise_seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=_SEED),
            *sampler_inputs(),
            io.Int.Input("start_at_step", default=0, min=0, max=10000, tooltip="The first step, counted from 0."),
            io.Int.Input("end_at_step", default=10000, min=0, max=10000, tooltip="It ends before this step."),
            io.Combo.Input("return_with_leftover_noise", options=["disable", "enable"], tooltip=_LEFTOVER),
        ]


NODES = (XPUKSampler, XPUKSamplerAdvanced)
