"""What samplers draw on the way, with the switch on and off; see worker.py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.sd
import folder_paths
import torch

from tests import xpu_sim
from tests.harness.models import MODELS
from xpu_utils.host.protecting.settings import EVERYWHERE, Protection
from xpu_utils.host.protecting.twins import Twins
from xpu_utils.host.protecting.using import Using

folder_paths.add_model_folder_path("diffusion_models", str(MODELS / "diffusion_models"))

_model: Any = comfy.sd.load_diffusion_model(
    folder_paths.get_full_path_or_raise("diffusion_models", "sd15-tiny-unet.safetensors")
)


@contextlib.contextmanager
def _switched_on(**choices: str) -> Iterator[None]:
    touches = Using(Twins(Protection(on=True, **choices))).touches()
    for touch in touches:
        touch.apply()
    try:
        yield
    finally:
        for touch in touches:
            touch.take_back()


def _sampled(sampler: str, steps: int = 2) -> torch.Tensor:
    latent = torch.zeros(1, 4, 8, 8)
    text = [[torch.linspace(-1, 1, 77 * 768).reshape(1, 77, 768), {}]]
    noise = comfy.sample.prepare_noise(latent, 7)
    return comfy.sample.sample(
        _model, noise, steps, 5.0, sampler, "normal", text, text, latent, disable_pbar=True, seed=7
    ).cpu()


def case_samplers() -> Any:
    """Those whose latents differ, and how many there are."""
    names = comfy.samplers.KSampler.SAMPLERS
    off = {name: _sampled(name) for name in names}
    with _switched_on():
        on = {name: _sampled(name) for name in names}
    with _switched_on(seeds=EVERYWHERE):
        everywhere = _sampled("euler_ancestral")
    return {
        "count": len(names),
        "differ": [name for name in names if not torch.equal(on[name], off[name])],
        "distinct": len({value.sum().item() for value in off.values()}),
        "everywhere differs": not torch.equal(everywhere, off["euler_ancestral"]),
    }


def case_a_lost_device() -> Any:
    """How far the latents are from those of the undisturbed run, on another device and, without that, on the CPU."""
    found = {}
    with _switched_on(precision="fp32"):
        expected = {name: _sampled(name, 4) for name in ("euler_ancestral", "dpmpp_2m_sde_gpu")}
        for name, where in (("dpmpp_2m_sde_gpu", "another"), ("euler_ancestral", "the cpu")):
            xpu_sim.current().set_faults([xpu_sim.Fault(operator="addmm", kind="device_lost", nth=60)])
            answer = _sampled(name, 4)
            xpu_sim.current().set_faults([])
            difference = (answer - expected[name]).abs().max() / expected[name].std()
            found[f"{name}, {where}"] = [difference.item(), str(_model.load_device)]
    return found
