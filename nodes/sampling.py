"""Sampler nodes: the stock samplers with a device, and with results that are checked."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.choices import SAMPLERS, SCHEDULERS
from ..xpu_utils.host.running.sampling import sample
from .base import XPUNode, accepted

MAX_SEED = 0xFFFFFFFFFFFFFFFF


def sampler_inputs() -> list[io.Input]:
    """The inputs that both of ComfyUI's samplers have after the seed."""
    return [
        io.Int.Input("steps", default=20, min=1, max=10000),
        io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01),
        io.Combo.Input("sampler_name", options=SAMPLERS),
        io.Combo.Input("scheduler", options=SCHEDULERS),
        io.Conditioning.Input("positive"),
        io.Conditioning.Input("negative"),
        io.Latent.Input("latent_image"),
    ]


class SamplerNode(XPUNode):
    """What both sampler nodes check before a prompt is queued."""

    STAGE = "sample"
    LEAVES_PLACED = True

    @classmethod
    def outputs(cls) -> list[io.Output]:
        return [io.Latent.Output()]

    @classmethod
    def validate_inputs(
        cls, device: object = None, precision: object = None, sampler_name: object = None, scheduler: object = None
    ) -> bool | str:
        return accepted(device=device, precision=precision, sampler_name=sampler_name, scheduler=scheduler)


class XPUKSampler(SamplerNode):
    """Samples like KSampler, on the chosen device.

    auto leaves a model where a loader or place node of this pack put it. A result that is not finite is refused,
    with the name of what spoiled it, instead of becoming a black picture.
    """

    TITLE = "XPU KSampler"
    ALIASES = ("KSampler",)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            io.Model.Input("model"),
            io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True),
            *sampler_inputs(),
            io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
        ]

    @classmethod
    def execute(
        cls, model: Any, latent_image: Any, device: str = AUTO, precision: str = AUTO, **inputs: Any
    ) -> io.NodeOutput:
        return cls.run(lambda: sample("KSampler", model, latent_image, device, precision, **inputs))


class XPUKSamplerAdvanced(SamplerNode):
    """Samples like KSamplerAdvanced, on the chosen device, with the checks of XPU KSampler."""

    TITLE = "XPU KSampler (Advanced)"
    ALIASES = ("KSamplerAdvanced",)

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            io.Model.Input("model"),
            io.Combo.Input("add_noise", options=["enable", "disable"]),
            io.Int.Input("noise_seed", default=0, min=0, max=MAX_SEED, control_after_generate=True),
            *sampler_inputs(),
            io.Int.Input("start_at_step", default=0, min=0, max=10000),
            io.Int.Input("end_at_step", default=10000, min=0, max=10000),
            io.Combo.Input("return_with_leftover_noise", options=["disable", "enable"]),
        ]

    @classmethod
    def execute(
        cls, model: Any, latent_image: Any, device: str = AUTO, precision: str = AUTO, **inputs: Any
    ) -> io.NodeOutput:
        return cls.run(lambda: sample("KSamplerAdvanced", model, latent_image, device, precision, **inputs))


NODES = (XPUKSampler, XPUKSamplerAdvanced)
