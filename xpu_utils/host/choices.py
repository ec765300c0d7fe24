"""What this ComfyUI offers in the combo boxes of our nodes."""

from __future__ import annotations

import comfy.samplers
import comfy.sd
import folder_paths

SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS


def model_files(folder: str) -> list[str]:
    """The model files in one of ComfyUI's model folders."""
    return list(folder_paths.get_filename_list(folder))


def clip_types() -> list[str]:
    """The families of text encoders, as the stock loaders spell them."""
    return [member.name.lower() for member in comfy.sd.CLIPType]
