"""ComfyUI's own device nodes behind our loaders and place nodes, and behind its own loaders; see worker.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import folder_paths
import nodes
import torch
from comfy.cli_args import args
from comfy_extras import nodes_multigpu

from tests import xpu_sim
from tests.harness.models import MODELS
from tests.harness.simulated import COMPUTING
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loaders
from xpu_utils.host.running.sampling import place_model
from xpu_utils.host.running.vae import place_vae
from xpu_utils.host.streaming import stream_of

CHECKPOINT = "sd15-tiny.safetensors"
folder_paths.add_model_folder_path("checkpoints", str(MODELS / "checkpoints"))


@contextlib.contextmanager
def flags_for_fp32() -> Iterator[None]:
    """ComfyUI as it is started with its flags for fp32; our loaders get the same from their input."""
    args.fp32_vae = args.fp32_unet = True
    try:
        yield
    finally:
        args.fp32_vae = args.fp32_unet = False


def stock(index: int) -> Any:
    """A part of the checkpoint from ComfyUI's loader."""
    return comfy.sd.load_checkpoint_guess_config(str(MODELS / "checkpoints" / CHECKPOINT))[index]


def ours(index: int, device: str = "xpu:0", precision: str = "fp32", resident: str = "auto") -> Any:
    return loaders.load_checkpoint(CHECKPOINT, placement_for(device, precision, resident))[0][index]


def selected(part: Any, device: str) -> Any:
    """What ComfyUI's Select Model, CLIP or VAE Device gives."""
    kind = "VAE" if isinstance(part, comfy.sd.VAE) else "CLIP" if isinstance(part, comfy.sd.CLIP) else "Model"
    return getattr(nodes_multigpu, f"Select{kind}DeviceNode").execute(part, device).args[0]


def split(model: Any, cards: int = 2) -> Any:
    return nodes_multigpu.MultiGPUCFGSplitNode.execute(model, cards).args[0]


def placed(model: Any, device: str) -> Any:
    return place_model(model, placement_for(device, "fp32"))[0]


def used(part: Any) -> torch.Tensor:
    """What a part gives with ComfyUI's own nodes."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(part, comfy.sd.VAE):
        return part.decode(torch.randn(1, 4, 4, 4, generator=generator)).cpu()
    if isinstance(part, comfy.sd.CLIP):
        return part.encode_from_tokens(part.tokenize("a red fox")).cpu()
    prompts = [[[torch.randn(1, 77, 768, generator=generator), {}]] for _ in range(2)]
    latent = {"samples": torch.zeros(1, 4, 4, 4)}
    return nodes.common_ksampler(part, 0, 1, 7.0, "euler", "normal", *prompts, latent)[0]["samples"].cpu()


def work_of(count: Callable[[str], int]) -> int:
    """How many of the operators that models compute with were counted."""
    return sum(map(count, COMPUTING))


def told(part: Any, expected: torch.Tensor) -> dict[str, Any]:
    """Where a part computes, how far its result is from another, and what it leaves loaded under no patcher.

    ComfyUI's loader leaves the model of a copy like that, with or without us.
    """
    before = _under_nobody()
    simulation = xpu_sim.current()
    simulation.reset_statistics()
    result = used(part)
    counts = simulation.statistics()
    ran_on = [f"xpu:{index}" for index, device in enumerate(counts.devices) if work_of(device.count)]
    return {
        "difference": float((result - expected).abs().max() / expected.std()),
        "ran_on": ran_on + ["cpu"] * bool(work_of(counts.cpu_count)),
        "loads_to": str(getattr(part, "patcher", part).load_device),
        "under_nobody": max(0, _under_nobody() - before),
    }


def _under_nobody() -> int:
    return sum(patcher is None for patcher in model_management.loaded_models())


def case_a_model() -> dict[str, Any]:
    with flags_for_fp32():
        expected = used(selected(stock(0), "gpu:1"))
        of_stocks = {"placed, default": told(selected(placed(stock(0), "xpu:1"), "default"), expected)}
    return {
        **of_stocks,
        "cpu": told(selected(ours(0), "cpu"), expected),
        "gpu:1": told(selected(ours(0), "gpu:1"), expected),
        "gpu:1, placed": told(placed(selected(ours(0), "gpu:1"), "xpu:0"), expected),
        "loaded to the cpu, gpu:0": told(selected(ours(0, "cpu"), "gpu:0"), expected),
    }


def case_a_model_with_a_share_resident() -> dict[str, Any]:
    """Behind a device node, and split; and where each of its streams ends."""
    with flags_for_fp32():
        whole, expected = used(stock(0)), used(split(stock(0)))
    model, shared = selected(ours(0, resident="45%"), "gpu:1"), split(ours(0, resident="45%"))
    found = {"gpu:1": told(model, whole), "split": told(shared, expected)}
    patchers = [model, shared, *shared.get_additional_models_with_key("multigpu")]
    return {**found, "streams_to": [str(stream_of(patcher).device) for patcher in patchers]}


def case_a_split_model() -> dict[str, Any]:
    with flags_for_fp32():
        expected, whole = used(split(stock(0))), used(stock(0))
        of_stocks = {
            "placed, split": told(split(placed(stock(0), "xpu:1")), expected),
            "split, placed": told(placed(split(stock(0)), "xpu:0"), expected),
            "split, placed where the copy was": told(placed(split(stock(0)), "xpu:1"), whole),
        }
    model = split(ours(0))
    found = {**of_stocks, "split": told(model, expected), "split, gpu:1": told(selected(model, "gpu:1"), whole)}
    xpu_sim.current().add_fault("convolution", "out_of_memory", nth=5, device=1)
    found["split, out of memory on the copy's"] = told(model, expected)
    xpu_sim.current().clear_faults()
    return found


def case_a_clip() -> dict[str, Any]:
    expected = used(stock(1))
    found = {}
    for device in ("cpu", "gpu:1"):
        clip = selected(ours(1), device)
        found[device] = {**told(clip, expected), "own_weights": clip.cond_stage_model is clip.patcher.model}
    return found


def case_a_vae() -> dict[str, Any]:
    with flags_for_fp32():
        expected = used(selected(stock(2), "gpu:1"))
    in_bf16, _ = place_vae(ours(2), placement_for("xpu:0", "bf16"))
    there, _ = place_vae(ours(2, "xpu:1"), placement_for("xpu:1", "bf16"))
    return {
        "gpu:1": told(selected(ours(2), "gpu:1"), expected),
        "placed in bf16, gpu:1": told(selected(in_bf16, "gpu:1"), used(there)),
    }


def case_what_stands_in_on_the_cpu() -> dict[str, Any]:
    """How many of a model's layers, computed by the CPU's plan, still are for a copy on a device."""
    model = ours(0, "cpu", "auto")
    copy = selected(model, "gpu:0")
    counts = [sum(name.endswith(".forward") for name in patcher.object_patches) for patcher in (model, copy)]
    return {"stand_ins": counts, **told(copy, used(model))}


def case_the_lost_device_of_a_copy() -> dict[str, Any]:
    """In the middle of a split model's run, and what the next run gives; runs last."""
    with flags_for_fp32():
        expected, whole = used(split(stock(0))), used(stock(0))
    model = split(ours(0))
    xpu_sim.current().add_fault("convolution", "device_lost", nth=5, device=1)
    found = {"lost": told(model, expected)}
    xpu_sim.current().clear_faults()
    return {**found, "next": told(model, whole)}
