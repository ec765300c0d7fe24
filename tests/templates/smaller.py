"""A template's prompt at a size that a CPU computes in a moment, with tiny files in the places of what it loads."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .models import FILES, stands_for

Prompt = dict[str, dict[str, Any]]

SIZE = 64
FRAMES = 9
"""What every family of videos can be asked for."""
LIMITS: Mapping[str, float] = {
    **dict.fromkeys(("width", "height", "resize_type.width", "resize_type.height"), SIZE),
    **dict.fromkeys(("resize_type.longer_size", "resize_type.shorter_size", "largest_size", "resolution"), SIZE),
    **dict.fromkeys(("megapixels", "resize_type.megapixels"), 0.01),
    **dict.fromkeys(("length", "num_frames", "frames_number"), FRAMES),
    **dict.fromkeys(("steps", "max_length"), 2),
    **dict.fromkeys(("left", "top", "right", "bottom", "feathering"), SIZE // 4),
    **dict.fromkeys(("seconds", "duration", "batch_size", "amount"), 1),
    "octree_resolution": 16,
    "num_chunks": 1000,
}
"""By the name of an input; what is less stays."""
LINKED: Mapping[str, float] = {**LIMITS, "start_at_step": 1, "end_at_step": 1}
"""Of numbers that nodes hand on."""

FOLDERS: Mapping[str, tuple[str, str]] = {
    "CheckpointLoaderSimple": ("checkpoints", "ckpt_name"),
    "ImageOnlyCheckpointLoader": ("checkpoints", "ckpt_name"),
    "UNETLoader": ("diffusion_models", "unet_name"),
    "CLIPLoader": ("text_encoders", "clip_name"),
    "DualCLIPLoader": ("text_encoders", "clip_name"),
    "TripleCLIPLoader": ("text_encoders", "clip_name"),
    "QuadrupleCLIPLoader": ("text_encoders", "clip_name"),
    "VAELoader": ("vae", "vae_name"),
    "CLIPVisionLoader": ("clip_vision", "clip_name"),
    "ControlNetLoader": ("controlnet", "control_net_name"),
    "UpscaleModelLoader": ("upscale_models", "model_name"),
    "LoraLoader": ("loras", "lora_name"),
    "LoraLoaderModelOnly": ("loras", "lora_name"),
    "LTXAVTextEncoderLoader": ("text_encoders", "text_encoder"),
}
"""Nodes that load models: the folder, and how the names of their inputs begin."""
OTHER_FILES = ("model_name", "ckpt_name", "audio_encoder_name", "style_model_name", "bg_removal_name", "name")
"""Inputs of other nodes that name models, which nothing stands for."""

HANDED_ON = ("model", "on_false", "on_true")
"""Inputs by which nodes hand on a model."""


class NoStandIn(LookupError):
    """Why there is no tiny model for a file."""


def smaller(prompt: Prompt, models: Path, known: Mapping[str, Any]) -> Prompt:
    """The prompt with less to do.

    Args:
        known: the host's nodes, as it tells editors.
        models: the folder of tiny models, of the families that the host has.

    Raises:
        NoStandIn: a model is asked for that no tiny one stands for.
    """
    small: Prompt = copy.deepcopy(prompt)
    for entry in small.values():
        inputs = entry["inputs"]
        _cut_schedule(inputs)
        for name, value in inputs.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                limit = LIMITS.get(name) if name != "value" else _limit_of(small, entry)
                if limit is not None:
                    inputs[name] = min(value, max(limit, _least(known, entry["class_type"], name)))
    for entry in small.values():
        for name, file in list(_files(entry)):
            folder, stand_in = _stand_in(small, entry, file)
            if not (models / folder / f"{stand_in}.safetensors").exists():
                raise NoStandIn(f"ComfyUI makes no {stand_in}")
            entry["inputs"][name] = f"{stand_in}.safetensors"
    return small


def stand_ins(prompt: Prompt) -> set[str]:
    """What stands for the files that a prompt loads; a file that nothing stands for is told by `smaller`."""
    found: set[str] = set()
    for entry in prompt.values():
        with contextlib.suppress(NoStandIn):
            for _, file in _files(entry):
                found.add(_stand_in(prompt, entry, file)[1])
    return found


def _least(known: Mapping[str, Any], kind: str, name: str) -> float:
    """What a node takes no less than."""
    groups = known.get(kind, {}).get("input", {}).values()
    told = next((group[name] for group in groups if name in group), [])
    return float("-inf") if len(told) < 2 else float(told[1].get("min", "-inf"))


def _cut_schedule(inputs: dict[str, Any]) -> None:
    """Parts of a schedule keep their order."""
    steps = inputs.get("steps")
    if isinstance(steps, int) and "start_at_step" in inputs:
        for name in ("start_at_step", "end_at_step"):
            if isinstance(inputs[name], int) and 0 < inputs[name] < steps:
                inputs[name] = 1


def _limit_of(prompt: Prompt, entry: Mapping[str, Any]) -> float | None:
    """That of the first input with one that a number is handed to, also by way of other nodes."""
    waiting = [key for key, candidate in prompt.items() if candidate is entry]
    for source in waiting:
        for key, consumer in prompt.items():
            for name, value in consumer["inputs"].items():
                if isinstance(value, list) and value[:1] == [source]:
                    if name in LINKED:
                        return LINKED[name]
                    waiting += [key] if key not in waiting else []
    return None


def _files(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    folder, begin = FOLDERS.get(entry["class_type"], ("", ""))
    for name, value in entry["inputs"].items():
        if isinstance(value, str) and "." in value:
            if folder and name.startswith(begin):
                yield name, value
            elif name in OTHER_FILES:
                raise NoStandIn(f"no tiny model stands for {value}")


def _stand_in(prompt: Prompt, entry: Mapping[str, Any], file: str) -> tuple[str, str]:
    """The folder of models, and what stands for a file there."""
    folder, _ = FOLDERS[entry["class_type"]]
    name = _model_of(prompt, entry) if folder == "loras" else stands_for(folder, file)
    if name is None:
        raise NoStandIn(f"no tiny model stands for {file}")
    return folder, name


def _model_of(prompt: Prompt, entry: Mapping[str, Any]) -> str | None:
    """What stands for the model that a LoRA is put on."""
    while entry["class_type"] not in ("UNETLoader", "CheckpointLoaderSimple"):
        source = next((entry["inputs"][name] for name in HANDED_ON if name in entry["inputs"]), None)
        if not isinstance(source, list):
            return None
        entry = prompt[source[0]]
    folder, name = FOLDERS[entry["class_type"]]
    file = str(entry["inputs"][name]).removesuffix(".safetensors")
    return file if file in {known for _, known in FILES[folder]} else stands_for(folder, file)
