"""A model that takes more than ComfyUI reckons, on a card that is too small for both; see worker.py."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import folder_paths
import nodes
import torch

from tests import xpu_sim
from tests.harness.models import MODELS
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loading
from xpu_utils.host.target import unload

DEVICE = torch.device("xpu:0")
PROMPTS = 3

folder_paths.add_model_folder_path("diffusion_models", str(MODELS / "diffusion_models"))


def _sampled(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    conditions = [[[torch.randn(1, 8, 768, generator=generator), {}]] for _ in range(2)]
    latent = {"samples": torch.zeros(1, 4, 32, 32)}
    (result,) = nodes.common_ksampler(model, 0, 2, 7.0, "euler", "normal", *conditions, latent)
    samples: torch.Tensor = result["samples"]
    return samples


def _only(room_bytes: int) -> None:
    """Has ComfyUI find that so much of the card is there."""
    before = torch.xpu.memory_allocated(0)

    def free(_device: Any = None, torch_free_too: bool = False) -> Any:
        free_bytes = room_bytes + before - torch.xpu.memory_allocated(0)
        return (free_bytes, 0) if torch_free_too else free_bytes

    card = xpu_sim.current().device(0)
    xpu_sim.current().change_device(0, other_process_bytes=card.total_bytes - room_bytes - before)
    model_management.get_free_memory = free


def _loaded() -> Any:
    model, _ = loading.load_diffusion_model(
        "sd15-tiny-unet.safetensors", "default", placement_for("xpu:0", "fp32", "auto")
    )
    return model


def case_driver() -> Any:
    """Of a prompt before, in and after a driver's failures with memory free: the conditions a call, and the latent's
    equality with the first."""
    model, batches, latents = _loaded(), [], []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda _, given: batches[-1].append(len(given[0])))
    for failures in (0, 4, 0):
        if failures:
            xpu_sim.current().add_fault("convolution", "out_of_memory", nth=5, times=failures)
        batches.append([])
        latents.append(_sampled(model))
        xpu_sim.current().clear_faults()
    hook.remove()
    unload(model)
    return {"batches": batches, "equal": [torch.equal(latent, latents[0]) for latent in latents]}


def case_prompts() -> Any:
    """Of each prompt, how many allocations failed and whether the latent is that of a card with room."""
    model_management.minimum_inference_memory = lambda: 1 << 20  # tiny models take less than ComfyUI's least
    model_management.extra_reserved_memory = lambda: 0
    model = _loaded()
    model.model.memory_required = lambda *_, **__: 1 << 20
    expected = _sampled(model)
    torch.xpu.reset_peak_memory_stats(0)
    _sampled(model)
    work_bytes = torch.xpu.max_memory_allocated(0) - torch.xpu.memory_allocated(0)
    unload(model)
    model_management.soft_empty_cache()
    room_bytes = int(1.3 * work_bytes + 0.4 * model.model_size())
    _only(room_bytes)
    failed, equal = [], []
    for _ in range(PROMPTS):
        before = torch.xpu.memory_stats(0)["num_ooms"]
        equal.append(torch.equal(_sampled(model), expected))
        failed.append(torch.xpu.memory_stats(0)["num_ooms"] - before)
    return {"failed": failed, "equal": equal, "work_bytes": work_bytes, "model_bytes": model.model_size()}
