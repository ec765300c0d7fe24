"""What a safetensors file holds, by its header alone: which parts of a model, how large, and in which formats."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ..memory.sizes import GIB
from ..precision import INT8, name_of
from .header import Entry, entries
from .int8_layers import may_hold


class Content(enum.Enum):
    """What a part is; the value is what users are told."""

    MODEL = "a diffusion model"
    TEXT_ENCODER = "a text encoder"
    VAE = "a VAE"
    CONTROLNET = "a ControlNet"
    LORA = "a LoRA"
    WHOLE = "one model"


# How names begin in checkpoints, what is in those of LoRAs, and how names begin in files of one model (ComfyUI's
# comfy/supported_models.py, comfy/controlnet.py, comfy/weight_adapter, comfy/model_detection.py, comfy/sd.py).
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
    ("input_hint_block.", Content.CONTROLNET),
)
_LORA = re.compile(r"(^|[._])(lora|lokr|hada|oft)[._]|\.(diff|diff_b|dora_scale|[ab][12]\.weight)$")
_ALONE: tuple[tuple[str, Content], ...] = (
    (r"vision_model\.|visual\.|layers\.\d+\.residual_group\.", Content.WHOLE),
    (r"(encoder|decoder)\.(conv|down|up|mid|head|blocks)|(post_)?quant_conv\.", Content.VAE),
    (r"text_model\.|(encoder|decoder)\.block\.|shared\.|transformer\.resblocks\.", Content.TEXT_ENCODER),
    (r"model\.(layers|embed_tokens)\.", Content.TEXT_ENCODER),
    (r"(net\.)?(\w+_)?(blocks?|layers)\.\d", Content.MODEL),
)
_FP8 = {torch.float8_e4m3fn: "fp8_e4m3", torch.float8_e5m2: "fp8_e5m2"}
_SCALES = ("weight_scale", "scale_weight")
CONVERTED = frozenset(("fp32", "bf16", "fp16", *_FP8.values()))
"""Formats whose weights are read in the format that a model is made in; what has scales stays as it is."""


@dataclasses.dataclass(frozen=True)
class Held:
    """How a device holds what was read."""

    floats: torch.dtype
    """The format that a model is made in."""
    in_int8: bool = False
    """Whether the layers that may be are held in int8."""

    def size_bytes(self, entry: Entry) -> int:
        """Of a tensor whose format is converted."""
        if entry.dtype is None or not entry.dtype.is_floating_point:
            return entry.size_bytes
        int8 = self._packs and may_hold(entry.name, entry.shape)
        return math.prod(entry.shape) * (1 if int8 else self.floats.itemsize)

    def __str__(self) -> str:
        return f"{INT8} and {name_of(self.floats)}" if self._packs else name_of(self.floats)

    @property
    def _packs(self) -> bool:
        return self.in_int8 and self.floats.itemsize > 1


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a file."""

    content: Content
    size_bytes: int
    """In the file."""
    held_bytes: int
    """On a device."""
    largest_layer_bytes: int
    """There."""
    format_bytes: Mapping[str, int]
    """By format, the largest first; scales are counted with the weights that they belong to."""

    def __str__(self) -> str:
        shares = [name for name, size_bytes in self.format_bytes.items() if size_bytes >= 0.01 * self.size_bytes]
        size = f"{self.size_bytes / GIB:.2f} GiB"
        if self.size_bytes < 0.1 * GIB:
            size = f"{self.size_bytes / (1 << 20):.1f} MiB"
        return f"{self.content.value} of {size} in {' and '.join(shares)}"


def contents(path: Path, held: Held | None = None, *, alone: Content | None = None) -> tuple[Part, ...]:
    """The parts of a file, the largest first.

    Args:
        held: how a device will hold them; None holds them as they are stored.
        alone: what a file of one model is, where that is known; else its names tell, or it is "one model".

    Raises:
        LoadError: the file cannot be read, or is no whole safetensors file.
    """
    by_content: dict[Content, list[Entry]] = {}
    found = entries(path)
    if 2 * sum(_LORA.search(entry.name) is not None for entry in found) >= len(found):
        by_content[Content.LORA] = [*found]
        found = ()
    for entry in found:
        by_content.setdefault(_content(entry.name), []).append(entry)
    if rest := by_content.pop(Content.WHOLE, None):
        content = Content.CONTROLNET if Content.CONTROLNET in by_content else alone or _alone(rest)
        by_content.setdefault(content, []).extend(rest)
    parts = [_part(content, found, held) for content, found in by_content.items()]
    return tuple(sorted(parts, key=lambda part: -part.size_bytes))


def _content(name: str) -> Content:
    return next((content for start, content in _BEGINNINGS if name.startswith(start)), Content.WHOLE)


def _alone(found: Iterable[Entry]) -> Content:
    """What most weights of a file without a checkpoint's names are of, of those whose names tell."""
    votes: Counter[Content] = Counter()
    for entry in found:
        kind = next((content for start, content in _ALONE if re.match(start, entry.name)), None)
        if kind is not None:
            votes[kind] += entry.size_bytes
    return max(votes, key=votes.__getitem__, default=Content.WHOLE)


def _part(content: Content, found: Iterable[Entry], held: Held | None) -> Part:
    layers: dict[str, dict[str, Entry]] = {}
    for entry in found:
        name, _, end = entry.name.rpartition(".")
        layers.setdefault(name, {})[end] = entry
    formats: Counter[str] = Counter()
    there = []
    for layer in layers.values():
        stored, kind = sum(entry.size_bytes for entry in layer.values()), _format(layer)
        formats[kind] += stored
        there.append(sum(map(held.size_bytes, layer.values())) if held and kind in CONVERTED else stored)
    largest = max(there, default=0)
    return Part(content, formats.total(), sum(there), largest, dict(formats.most_common()))


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
