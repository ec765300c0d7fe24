"""Which families there are: described ones that the host has, and the host's that nobody has described."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from . import controls, formats, images, others, texts, vaes, videos
from .family import Family, build, on_host, patcher_of, sampled
from .others import NOT_SAMPLED
from .subject import Subject

MODELS = (*images.FAMILIES, *videos.FAMILIES, *others.FAMILIES)
NAMES: Mapping[str, Sequence[str]] = {
    "Diffusion models": [family.name for family in MODELS],
    "VAEs": [vae.name for vae in vaes.FAMILIES],
    "Text encoders": [text.name for text in texts.FAMILIES],
    "ControlNets": [control.name for control in controls.FAMILIES],
    "Storage formats, of an SD3": formats.NAMES,
}
"""Of all that is described."""
UNCHECKED: Mapping[str, Mapping[str, str]] = {
    "Diffusion models": NOT_SAMPLED,
    "VAEs": vaes.NOT_CODED,
    "Text encoders": texts.NOT_ENCODED,
}
"""The host's classes that are not checked, and why."""

COVERING = (
    *("SD15", "SDXL", "Stable_Cascade_B", "SD3", "Flux", "ChromaRadiance", "HiDream", "QwenImage"),
    *("WAN21_I2V", "HunyuanVideo", "LTXV", "ACEStep", "mixed-fp8"),
    *("VAE-Oobleck", "VAE-Stage-C-decoder", "CLIP-Flux", "ControlNet-LoRA"),
)
"""What `make test` checks: UNets, layers used twice a pass, mixtures of experts, tensors that are no weights, ..."""


def known() -> list[Subject]:
    """The described families and storage formats that the host has."""
    names = _of_the_host()
    models = [_model(family) for family in MODELS if family.name in names]
    return [*models, *vaes.subjects(), *texts.subjects(), *controls.subjects(), *formats.subjects()]


def _model(family: Family) -> Subject:
    def rounded(dtype: torch.dtype) -> Any:
        return patcher_of(build(family, dtype))

    work = functools.partial(sampled, family)
    return Subject(family.name, lambda: on_host(build(family)), work, rounded=rounded, keeps=bool(family.forget))


def absent() -> list[str]:
    """The described families and formats that the host lacks."""
    here = {subject.name for subject in known()}
    return [name for names in NAMES.values() for name in names if name not in here]


def undescribed() -> list[str]:
    """The host's classes that nobody has described."""
    models = _of_the_host() - {family.name for family in MODELS} - NOT_SAMPLED.keys()
    coders = vaes.kinds_of_the_host() - {vae.kind for vae in vaes.FAMILIES} - vaes.NOT_CODED.keys()
    encoders = texts.kinds_of_the_host() - {text.kind for text in texts.FAMILIES} - texts.NOT_ENCODED.keys()
    hints = controls.kinds_of_the_host() - {kind for control in controls.FAMILIES for kind in control.kinds}
    return sorted(models | coders | encoders | hints)


def _of_the_host() -> set[str]:
    import comfy.supported_models

    return {kind.__name__ for kind in comfy.supported_models.models}
