"""Workflows in ComfyUI's API format, built from stock nodes; `with_our_nodes` swaps in ours."""

from __future__ import annotations

import copy
from typing import Any

Workflow = dict[str, dict[str, Any]]

OURS = {
    "CheckpointLoaderSimple": "XPULoadCheckpoint",
    "UNETLoader": "XPULoadDiffusionModel",
    "CLIPLoader": "XPULoadCLIP",
    "VAELoader": "XPULoadVAE",
    "ControlNetLoader": "XPULoadControlNet",
    "CLIPVisionLoader": "XPULoadCLIPVision",
    "UpscaleModelLoader": "XPULoadUpscaleModel",
    "KSampler": "XPUKSampler",
    "KSamplerAdvanced": "XPUKSamplerAdvanced",
    "VAEDecode": "XPUVAEDecode",
    "VAEEncode": "XPUVAEEncode",
    "ImageUpscaleWithModel": "XPUUpscaleImage",
}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


TRIFLE = {
    "picture": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
    "shown": node("PreviewImage", images=["picture", 0]),
}
"""A prompt that takes no time."""

REPORT = node("XPUDoctor", run_kernels=False, scan_packs=False)
"""The node that reports on findings and devices, and runs nothing on them."""


def text_to_image(
    checkpoint: str = "sd15-tiny.safetensors",
    *,
    size: int = 32,
    steps: int = 2,
    sampler: str = "euler",
    seed: int = 7,
    cfg: float = 7.0,
    batch: int = 1,
    latent: str = "EmptyLatentImage",
) -> Workflow:
    """Text to image; node ids are readable names, the picture comes from "save"."""
    return {
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "positive": node("CLIPTextEncode", clip=["checkpoint", 1], text="a lighthouse at dusk"),
        "negative": node("CLIPTextEncode", clip=["checkpoint", 1], text="blurry"),
        "latent": node(latent, width=size, height=size, batch_size=batch),
        "sampler": node(
            "KSampler",
            model=["checkpoint", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            latent_image=["latent", 0],
            seed=seed,
            steps=steps,
            cfg=cfg,
            sampler_name=sampler,
            scheduler="normal",
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["checkpoint", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="test"),
    }


def exchanged(workflow: Workflow) -> Workflow:
    """The same graph with nothing but the class names of stock nodes exchanged for ours."""
    result = copy.deepcopy(workflow)
    for entry in result.values():
        entry["class_type"] = OURS.get(entry["class_type"], entry["class_type"])
    return result


def with_our_nodes(workflow: Workflow, *, device: str = "auto", precision: str = "auto") -> Workflow:
    """The same graph with every stock loader, sampler and VAE node replaced by ours."""
    result = exchanged(workflow)
    for entry in result.values():
        if entry["class_type"] in OURS.values():
            entry["inputs"].update(device=device, precision=precision)
    return result


def with_stock_nodes(workflow: Workflow) -> Workflow:
    """The inverse: a graph of our nodes with the stock ones in their places."""
    stock = {ours: name for name, ours in OURS.items()}
    result = copy.deepcopy(workflow)
    for entry in result.values():
        if entry["class_type"] in stock:
            entry["class_type"] = stock[entry["class_type"]]
            for name in ("device", "precision", "resident"):
                entry["inputs"].pop(name, None)
    return result
