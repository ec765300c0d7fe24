"""What every sampler draws on the way, with the switch on and off; see worker.py."""

from __future__ import annotations

from typing import Any

import comfy.samplers

from .noise_cases import differing


def case_samplers() -> Any:
    """As `differing`, for all."""
    return differing(comfy.samplers.KSampler.SAMPLERS)
