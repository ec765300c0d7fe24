"""Which families there are: described ones that the host has, and the host's that nobody has described."""

from __future__ import annotations

from . import formats, images, others, videos
from .family import Subject
from .others import NOT_SAMPLED

ALL = (*images.FAMILIES, *videos.FAMILIES, *others.FAMILIES)

COVERING = (
    *("SD15", "SDXL", "Stable_Cascade_B", "SD3", "Flux", "ChromaRadiance", "HiDream", "QwenImage"),
    *("WAN21_I2V", "HunyuanVideo", "LTXV", "ACEStep", "mixed-fp8"),
)
"""What `make test` checks: UNets, layers used twice a pass, mixtures of experts, tensors that are no weights, ..."""


def known() -> list[Subject]:
    """The described families and storage formats that the host has."""
    names = _of_the_host()
    return [*(Subject.of(family) for family in ALL if family.name in names), *formats.subjects()]


def absent() -> list[str]:
    """The described families and formats that the host lacks."""
    here = {subject.name for subject in known()}
    return [name for name in (*(family.name for family in ALL), *formats.NAMES) if name not in here]


def undescribed() -> list[str]:
    """The host's families that nobody has described."""
    return sorted(_of_the_host() - {family.name for family in ALL} - NOT_SAMPLED.keys())


def _of_the_host() -> set[str]:
    import comfy.supported_models

    return {kind.__name__ for kind in comfy.supported_models.models}
