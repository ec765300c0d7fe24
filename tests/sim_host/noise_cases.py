"""What samplers do between model calls; what they draw, with the switch on and off; see worker.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.sd
import torch

from xpu_utils.host.inventory import placement_for
from xpu_utils.host.protecting.settings import EVERYWHERE
from xpu_utils.host.protecting.using import Using
from xpu_utils.host.running.sampling import place_model

from .switched import UNET, failing, sampled, switched_on

_model: Any = comfy.sd.load_diffusion_model(UNET)


DRAWING = ("euler", "euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde_gpu", "dpmpp_3m_sde_gpu", "lcm", "ddpm", "uni_pc")
"""Samplers of every way to draw noise, and two that draw none."""


def case_samplers() -> Any:
    """As `differing`, for some of every kind."""
    return differing(DRAWING)


def differing(names: Sequence[str]) -> Any:
    """The samplers whose latents differ, and how many there are."""
    off = {name: sampled(_model, name) for name in names}
    with switched_on(Using):
        on = {name: sampled(_model, name) for name in names}
    with switched_on(Using, seeds=EVERYWHERE):
        everywhere = sampled(_model, "euler_ancestral")
    return {
        "count": len(names),
        "differ": [name for name in names if not torch.equal(on[name], off[name])],
        "distinct": len({value.sum().item() for value in off.values()}),
        "everywhere differs": not torch.equal(everywhere, off["euler_ancestral"]),
    }


def case_a_latent_in_half() -> Any:
    """Whether a sampler that hands its model fp16 gets from ours what it gets from stock, without guidance."""
    conditions = [[[torch.zeros(1, 8, 768), {}]] for _ in range(2)]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def once(model: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: Any, **_: Any) -> torch.Tensor:
        model(x.half(), sigmas[:1], **extra_args)  # unused, as where a model only fills its caches
        return torch.as_tensor(model(x, sigmas[:1], **extra_args))

    def sample(model: Any) -> torch.Tensor:
        sampler, sigmas = comfy.samplers.KSAMPLER(once), torch.tensor([5.0, 0.0])
        answer = comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, *conditions, torch.zeros_like(noise))
        return torch.as_tensor(answer)

    return torch.equal(sample(place_model(_model, placement_for("xpu:0", "auto"))[0]), sample(_model))


def case_a_lost_device() -> Any:
    """How far the latents are from those of the undisturbed run, on another device and, without that, on the CPU."""
    found = {}
    with switched_on(Using, precision="fp32"):
        expected = {name: sampled(_model, name, 4) for name in ("euler_ancestral", "dpmpp_2m_sde_gpu")}
        for name, where in (("dpmpp_2m_sde_gpu", "another"), ("euler_ancestral", "the cpu")):
            with failing(operator="addmm", kind="device_lost", nth=60):
                answer = sampled(_model, name, 4)
            difference = (answer - expected[name]).abs().max() / expected[name].std()
            found[f"{name}, {where}"] = [difference.item(), str(_model.load_device)]
    return found
