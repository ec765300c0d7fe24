"""Trains autoencoder, transformer and judge on one CUDA GPU, and writes them with their losses and scores."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import trange

from . import networks
from .judge import judge, shrunk
from .subjects import SUBJECTS, varied

TEMPLATES = ("{}", "an emoji of a {}", "a drawing of a {} on white")
VARIANTS = 32
"""Renderings of each subject, of other sizes and places."""

SHIFT = 3.0
"""SD3's shift of noise levels towards the noisy end (comfy.supported_models.SD3)."""


def renderings(font: Path, device: torch.device, *, seed: int, spread: float = 1.0) -> torch.Tensor:
    """(subjects, variants, 3, 256, 256) pictures as bytes."""
    draw = random.Random(seed)
    pictures = [np.asarray(varied(name, font, draw, spread=spread)) for name in SUBJECTS for _ in range(VARIANTS)]
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return stacked.unflatten(0, (len(SUBJECTS), VARIANTS)).to(device)


def train_autoencoder(pictures: torch.Tensor, *, steps: int, seed: int) -> tuple[Any, float]:
    """TAESD whose latents have unit size in each channel, and the last loss."""
    torch.manual_seed(seed)
    device, flat = pictures.device, pictures.flatten(0, 1)
    network = networks.autoencoder(device).to(memory_format=torch.channels_last)

    def loss() -> torch.Tensor:
        wanted = _crops(flat, 96, 128)
        latents = network.taesd_encoder(wanted)
        mean, deviation = latents.float().mean((0, 2, 3)), latents.float().std((0, 2, 3))
        unit = mean.square().mean() + (deviation - 1).square().mean()
        drawn = network.taesd_decoder(latents + 0.05 * torch.randn_like(latents)).float()
        edges = sum((drawn.diff(dim=axis) - wanted.diff(dim=axis)).abs().mean() for axis in (2, 3))
        return (drawn - wanted).abs().mean() + (drawn - wanted).square().mean() + edges + 0.02 * unit

    return network, _optimise(network, loss, steps=steps, rate=1e-3, what="autoencoder")


def _crops(pictures: torch.Tensor, count: int, side: int) -> torch.Tensor:
    """Random square parts, (count, 3, side, side) in 0..1."""
    chosen = torch.randint(len(pictures), (count,), device=pictures.device)
    top, left = (8 * random.randrange((pictures.shape[2] - side) // 8 + 1) for _ in range(2))
    part = pictures[chosen, :, top : top + side, left : left + side]
    return (part.float() / 255).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def latents_of(network: Any, pictures: torch.Tensor) -> torch.Tensor:
    """(subjects, variants, 16, 32, 32) latents of unit size, in fp16."""
    parts = pictures.flatten(0, 1).split(64)
    with networks.as_stored(network), _bf16():
        latents = torch.cat([network.taesd_encoder(part.float() / 255) for part in parts]).half()
    return latents.unflatten(0, pictures.shape[:2])


Texts = tuple[torch.Tensor, torch.Tensor]
"""CLIP-L's states (templates, subjects and the empty text, 77, 768) and pooled states (..., 768)."""


def train_transformer(latents: torch.Tensor, texts: Texts, *, steps: int, seed: int) -> tuple[Any, float]:
    """The MMDiT, by rectified flow: it answers noise minus picture for their mixture."""
    torch.manual_seed(seed)
    device, batch = latents.device, 512
    network = networks.transformer(device)
    subjects, variants = latents.shape[:2]

    def loss() -> torch.Tensor:
        subject = torch.randint(subjects, (batch,), device=device)
        clean = latents[subject, torch.randint(variants, (batch,), device=device)].float()
        named = torch.where(torch.rand(batch, device=device) < 0.1, subjects, subject)  # the empty text, for guidance
        template = torch.randint(len(TEMPLATES), (batch,), device=device)
        context, pooled = (part[template, named].float() for part in texts)
        level = torch.sigmoid(torch.randn(batch, device=device) * 1.2)
        level = SHIFT * level / (1 + (SHIFT - 1) * level)
        noise = torch.randn_like(clean)
        share = level[:, None, None, None]
        answer = velocity(network, (1 - share) * clean + share * noise, level, context, pooled)
        return F.mse_loss(answer.float(), noise - clean)

    return network, _optimise(network, loss, steps=steps, rate=1.5e-3, what="transformer")


def velocity(
    network: Any, mixed: torch.Tensor, level: torch.Tensor, context: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    """The network's answer with text padded as ComfyUI pads CLIP-L's for SD3."""
    context = F.pad(context, (0, 4096 - context.shape[-1]))
    pooled = F.pad(pooled, (0, 2048 - pooled.shape[-1]))
    answer: torch.Tensor = network(mixed, 1000 * level, context=context, y=pooled)
    return answer


def _optimise(
    network: torch.nn.Module, loss: Callable[[], torch.Tensor], *, steps: int, rate: float, what: str
) -> float:
    """AdamW with warm-up and a cosine; the averaged weights stay. From the middle on weights are as they are kept."""
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    others = [weight for weight in network.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=network_device(network).type == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, functools.partial(_share_of_rate, steps))
    average = [weight.detach().clone() for weight in network.parameters()]
    recent = 0.0
    for step in (bar := trange(steps, desc=what, mininterval=5)):
        with networks.as_stored(network) if step > steps // 2 else contextlib.nullcontext(), _bf16():
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        kept = min(0.998, step / (step + 10))
        torch._foreach_lerp_(average, [weight.detach() for weight in network.parameters()], 1 - kept)
        if step % 50 == 0 or step == steps - 1:
            recent = value.item()
            bar.set_postfix(loss=f"{recent:.4f}")
    with torch.no_grad():
        for weight, kept_weight in zip(network.parameters(), average, strict=True):
            weight.copy_(kept_weight)
    return recent


def network_device(network: torch.nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device


def _share_of_rate(steps: int, step: int) -> float:
    return min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1))) + 1e-3


def _bf16() -> Any:
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)


def train_judge(pictures: torch.Tensor, *, steps: int, seed: int) -> tuple[Any, float]:
    """The classifier, on renderings that are blurred, noisy and of other brightness."""
    torch.manual_seed(seed)
    device = pictures.device
    small = shrunk(pictures.flatten(0, 1).float() / 255)
    network = judge().to(device)
    subjects, variants = pictures.shape[:2]

    def loss() -> torch.Tensor:
        subject = torch.randint(subjects, (512,), device=device)
        seen = small[subject * variants + torch.randint(variants, (512,), device=device)]
        seen = (seen - 0.5) * (0.7 + 0.6 * torch.rand(512, 1, 1, 1, device=device)) + 0.5
        seen = seen + 0.15 * torch.rand(512, 1, 1, 1, device=device) * torch.randn_like(seen)
        if random.random() < 0.5:
            seen = F.avg_pool2d(seen, 3, 1, 1)
        return F.cross_entropy(network(seen), subject, label_smoothing=0.05)

    last = _optimise(network, loss, steps=steps, rate=2e-3, what="judge")
    return network.eval(), last


def encode_texts(clip: Any, tokenizer: Any, device: torch.device) -> Texts:
    """What ComfyUI's SD3 text encoder answers for every subject in every template, the empty text last."""
    states, pools = [], []
    for template in TEMPLATES:
        texts = [*(template.format(name) for name in SUBJECTS), ""]
        answers = [clip.encode_token_weights(tokenizer.tokenize_with_weights(text)) for text in texts]
        states.append(torch.cat([answer[0][..., : networks.TEXT_WIDTH] for answer in answers]))
        pools.append(torch.cat([answer[1][..., : networks.TEXT_WIDTH] for answer in answers]))
    return torch.stack(states).to(device, torch.bfloat16), torch.stack(pools).to(device, torch.bfloat16)


@torch.no_grad()
def draw(network: Any, vae: Any, texts: Texts, *, steps: int = 8, guidance: float = 2.0, seed: int = 0) -> torch.Tensor:
    """A picture of every subject in 8 Euler steps: (subjects, 3, 256, 256) in 0..1."""
    context, pooled = (part[0, :-1].float() for part in texts)
    nothing = [part[0, -1:].float().expand_as(whole) for part, whole in zip(texts, (context, pooled), strict=True)]
    device = context.device
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(len(context), networks.LATENT_CHANNELS, 32, 32, generator=generator).to(device)
    levels = torch.linspace(1, 0, steps + 1)
    levels = SHIFT * levels / (1 + (SHIFT - 1) * levels)
    with networks.as_stored(network), networks.as_stored(vae), _bf16():
        for now, following in itertools.pairwise(levels):
            level = now.expand(len(state)).to(device)
            told = velocity(network, state, level, context, pooled).float()
            untold = velocity(network, state, level, *nothing).float()
            state = state + (following - now).item() * (untold + guidance * (told - untold))
        parts = [vae.taesd_decoder(part).float().clamp(0, 1) for part in state.split(32)]
    return torch.cat(parts)


def kept(networks_by_prefix: dict[str, torch.nn.Module]) -> Iterator[tuple[str, torch.Tensor]]:
    """All learnt weights as they are kept, contiguous, without the columns that no text fills."""
    for prefix, network in networks_by_prefix.items():
        for key, weight in network.state_dict().items():
            if key in ("context_embedder.weight", "y_embedder.mlp.0.weight"):
                weight = weight[:, : networks.TEXT_WIDTH]
            yield prefix + key, networks.stored(weight.detach().cpu()).contiguous()
