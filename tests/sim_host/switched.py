"""The switch without a server: what it puts in front of ComfyUI's functions, for the cases of `worker.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import comfy.sample
import folder_paths
import torch

from tests import xpu_sim
from tests.harness.models import MODELS
from xpu_utils.host.protecting.loaders import Loaders
from xpu_utils.host.protecting.repeating import Repeating
from xpu_utils.host.protecting.settings import Protection
from xpu_utils.host.protecting.touches import Touch
from xpu_utils.host.protecting.twins import Twins
from xpu_utils.host.protecting.using import Using

folder_paths.add_model_folder_path("diffusion_models", str(MODELS / "diffusion_models"))

UNET = folder_paths.get_full_path_or_raise("diffusion_models", "sd15-tiny-unet.safetensors")


@contextlib.contextmanager
def switched_on(*kinds: Callable[[Twins], Any], **choices: str) -> Iterator[list[Touch]]:
    """What it puts there, in the block, which it answers; all kinds unless some are named."""
    twins = Twins(Protection(on=True, **choices))  # type: ignore[arg-type]
    touches = [touch for kind in kinds or (Using, Loaders, Repeating) for touch in kind(twins).touches()]
    for touch in touches:
        touch.apply()
    try:
        yield touches
    finally:
        for touch in touches:
            touch.take_back("the test is over")


@contextlib.contextmanager
def failing(**fault: Any) -> Iterator[None]:
    """A fault of the simulation in the block."""
    xpu_sim.current().set_faults([xpu_sim.Fault(**fault)])
    try:
        yield
    finally:
        xpu_sim.current().set_faults([])


def sampled(model: Any, sampler: str = "euler", steps: int = 2) -> torch.Tensor:
    """The latent that a MODEL of SD1.5's kind makes, on the host."""
    latent = torch.zeros(1, 4, 8, 8)
    text = [[torch.linspace(-1, 1, 77 * 768).reshape(1, 77, 768), {}]]
    noise = comfy.sample.prepare_noise(latent, 7)
    return comfy.sample.sample(
        model, noise, steps, 5.0, sampler, "normal", text, text, latent, disable_pbar=True, seed=7
    ).cpu()
