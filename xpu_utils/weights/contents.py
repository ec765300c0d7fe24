"""What a safetensors file holds, by its header alone: which parts of a model, how large, and in which formats."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ..memory.sizes import GIB
from ..precision import name_of
from .header import Entry, entries


class Content(enum.Enum):
    """What a part is; the value is what users are told."""

    MODEL = "a diffusion model"
    TEXT_ENCODER = "a text encoder"
    VAE = "a VAE"
    CONTROLNET = "a ControlNet"
    LORA = "a LoRA"
    WHOLE = "one model"


# How names begin in checkpoints, and end in LoRAs (ComfyUI's comfy/supported_models.py, comfy/lora.py, controlnet.py).
_BEGINNINGS: tuple[tuple[str, Content], ...] = (
    ("model.diffusion_model.", Content.MODEL),
    ("model.model.", Content.MODEL),
    ("first_stage_model.", Content.VAE),
    ("vae.", Content.VAE),
    ("cond_stage_model.", Content.TEXT_ENCODER),
    ("conditioner.", Content.TEXT_ENCODER),
    ("text_encoders.", Content.TEXT_ENCODER),
    ("control_model.", Content.CONTROLNET),
    ("controlnet_", Content.CONTROLNET),
    ("lora_", Content.LORA),
)
_LORA_ENDS = (".lora_up.weight", ".lora_down.weight", ".lora_A.weight", ".lora_B.weight")
_FP8 = {torch.float8_e4m3fn: "fp8_e4m3", torch.float8_e5m2: "fp8_e5m2"}
_SCALES = ("weight_scale", "scale_weight")


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a file."""

    content: Content
    size_bytes: int
    largest_layer_bytes: int
    format_bytes: Mapping[str, int]
    """By format, the largest first; scales are counted with the weights that they belong to."""

    def __str__(self) -> str:
        shares = [name for name, size_bytes in self.format_bytes.items() if size_bytes >= 0.01 * self.size_bytes]
        return f"{self.content.value} of {self.size_bytes / GIB:.2f} GiB in {' and '.join(shares)}"


def contents(path: Path) -> tuple[Part, ...]:
    """The parts of a file, the largest first; one without the names of a checkpoint's parts is one model.

    Raises:
        LoadError: the file cannot be read, or is no whole safetensors file.
    """
    by_content: dict[Content, list[Entry]] = {}
    for entry in entries(path):
        by_content.setdefault(_content(entry.name), []).append(entry)
    parts = [_part(content, found) for content, found in by_content.items()]
    return tuple(sorted(parts, key=lambda part: -part.size_bytes))


def _content(name: str) -> Content:
    if name.endswith(_LORA_ENDS):
        return Content.LORA
    return next((content for start, content in _BEGINNINGS if name.startswith(start)), Content.WHOLE)


def _part(content: Content, found: Iterable[Entry]) -> Part:
    layers: dict[str, dict[str, Entry]] = {}
    for entry in found:
        layer, _, end = entry.name.rpartition(".")
        layers.setdefault(layer, {})[end] = entry
    sizes = {layer: sum(entry.size_bytes for entry in held.values()) for layer, held in layers.items()}
    formats: Counter[str] = Counter()
    for layer, held in layers.items():
        formats[_format(held)] += sizes[layer]
    return Part(content, sum(sizes.values()), max(sizes.values(), default=0), dict(formats.most_common()))


def _format(layer: Mapping[str, Entry]) -> str:
    """The format of a layer, by the dtype of its weight and what lies beside it (ComfyUI's comfy/ops.py)."""
    weight = layer.get("weight") or max(layer.values(), key=lambda entry: entry.size_bytes)
    if "weight_s_rel" in layer:
        return "w4a8"
    if "weight_scale_2" in layer:
        return "nvfp4"
    scale = next((layer[end] for end in _SCALES if end in layer), None)
    if weight.dtype in _FP8:
        blocks = scale is not None and len(scale.shape) == 2 and scale.shape[1] > 1
        return "mxfp8" if blocks else f"{'' if scale is None else 'scaled '}{_FP8[weight.dtype]}"
    return name_of(weight.dtype) if weight.dtype is not None else f"{weight.stored_as}, which is not known here"
