"""The networks that are trained: ComfyUI's own classes, so that what is learnt fits its loaders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

DEPTH = 4
"""Blocks of the transformer; SD3's layout makes it 64 channels wide for each."""

TEXT_WIDTH = 768
"""Channels of CLIP-L's states. SD3's layout has 4096 and 2048 inputs for text; all but these are zero here."""

LATENT_CHANNELS = 16
LATENT_SCALE, LATENT_SHIFT = 1.5305, 0.0609
"""SD3's latent format (comfy.latent_formats.SD3): the autoencoder undoes it, so that its latents are of unit size."""

STORED = torch.float8_e4m3fn


def transformer(device: str | torch.device = "cpu") -> Any:
    """SD3's MMDiT of `DEPTH` blocks, with random weights that suit training."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    network = OpenAISignatureMMDITWrapper(
        in_channels=LATENT_CHANNELS,
        patch_size=2,
        out_channels=LATENT_CHANNELS,
        depth=DEPTH,
        input_size=None,
        adm_in_channels=2048,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": 4096, "out_features": 64 * DEPTH},
        },
        qk_norm="rms",
        device=device,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    for name, weight in network.named_parameters():
        if "ln_q" in name or "ln_k" in name:
            torch.nn.init.ones_(weight)
        elif "adaLN" in name or "final_layer.linear" in name or weight.ndim < 2:
            torch.nn.init.zeros_(weight)
        else:
            torch.nn.init.xavier_uniform_(weight.flatten(1))
    with torch.no_grad():  # only the columns that CLIP-L fills are learnt
        network.context_embedder.weight[:, TEXT_WIDTH:] = 0
        network.y_embedder.mlp[0].weight[:, TEXT_WIDTH:] = 0
    return network


def autoencoder(device: str | torch.device = "cpu") -> Any:
    """TAESD of 16 channels, with random weights that suit training."""
    from comfy.taesd.taesd import TAESD

    with torch.device(device):
        network = TAESD(latent_channels=LATENT_CHANNELS)
        for weight in network.parameters():
            if weight.ndim > 1:
                torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
            elif weight.ndim:
                torch.nn.init.zeros_(weight)
    for name, layer in network.named_modules():
        if name.endswith("conv.4"):  # the last of each block: it begins as a small change
            layer.weight.data.mul_(0.1)
    network.vae_scale.data.fill_(LATENT_SCALE)
    network.vae_shift.data.fill_(LATENT_SHIFT)
    return network.requires_grad_(True)


def stored(weight: torch.Tensor) -> torch.Tensor:
    """A weight as it is kept: fp8 for matrices and kernels, bf16 for vectors; the two figures of the format stay."""
    return weight.to(STORED if weight.ndim > 1 else torch.bfloat16) if weight.ndim else weight


@contextmanager
def as_stored(network: torch.nn.Module) -> Iterator[None]:
    """For the block, the network computes with its weights as they will be kept; gradients reach the full ones."""
    kept = {}
    for module in network.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None and weight.requires_grad:
                kept[module, name] = weight
                del module._parameters[name]
                setattr(module, name, weight + (stored(weight.detach()).to(weight.dtype) - weight.detach()))
    try:
        yield
    finally:
        for (module, name), weight in kept.items():
            delattr(module, name)
            module._parameters[name] = weight
