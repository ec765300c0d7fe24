"""What a loader says before it reads: what the file holds, what that needs on its device, what will happen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import comfy.model_management as model_management
import torch

from ...forecast import forecast, holds
from ...machine.devices import Device
from ...placement import Placement
from ...precision import INT8
from ...selftest.gates import product
from ...selftest.products import held_in_int8
from ...weights.check import SAFETENSORS_SUFFIXES
from ...weights.contents import Content, Held, Part, contents
from ...weights.conversion import HALVES
from ...weights.header import LoadError
from ..gates import gates_open, ways
from ..inventory import as_default, host_inventory
from ..neighbours import dynamic_vram
from ..stages import decided
from .asked import asked_size
from .work import Family, family, picked, step

_ASKED = ", the largest that this prompt asks for in numbers"
_SIXTEEN_BITS = {"fp16", "bf16"}
_SCALED = ("scaled ", "nvfp4", "mxfp8", "w4a8", "int8")
"""How the names of formats with scales begin."""


def told(placement: Placement, kind: Content, *paths: Path, dtype: torch.dtype | None = None) -> Placement:
    """The placement with a note for each file of what will happen, which is shown while the file is read.

    Args:
        kind: what files of one model are; `Content.WHOLE` is a checkpoint.
        dtype: the format that a model is made in; None leaves it to ComfyUI.
    """
    try:
        for path in filter(_is_safetensors, paths):
            placement = placement.noting(_note(path, placement, kind, dtype))
    except LoadError:  # the file's check says what is wrong with it, and what to do
        return placement
    decided(placement)
    return placement


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() in SAFETENSORS_SUFFIXES


def _note(path: Path, placement: Placement, kind: Content, dtype: torch.dtype | None) -> str:
    """What the file holds, and what comes of it, as far as the format of its weights on the device is known."""
    device, alone = placement.device, None if kind is Content.WHOLE else kind
    stored = contents(path, alone=alone)
    formats = {name for part in stored if part.content is Content.MODEL for name in part.format_bytes}
    held = seen = None
    if kind is not Content.TEXT_ENCODER:
        seen = family(path)
        with as_default(device.torch_device):
            made_in = dtype or picked(seen, quantised=any(name.startswith(_SCALED) for name in formats))
        held = Held(made_in, in_int8=_in_int8(placement)) if made_in else None
    known = _stay(stored) if kind is Content.TEXT_ENCODER else held is not None
    if not known or (dynamic_vram() and device.type != "cpu"):
        return holds(stored)
    work = _work(seen, device)
    ahead = forecast(path, device, resident=placement.resident, held=held, alone=alone, **work)
    found = () if dtype is not None else ways(device, formats)
    return "; ".join((str(ahead), *(f"{one.format} is {one.way.value} there" for one in found)))


def _stay(parts: Iterable[Part]) -> bool:
    """Whether text encoders stay in the formats of their files: others are read in one by family, flag and device."""
    formats = {name for part in parts for name in part.format_bytes}
    return formats <= _SIXTEEN_BITS and model_management.text_encoder_dtype() in HALVES


def _in_int8(placement: Placement) -> bool:
    return placement.precision == INT8 and product(placement.device, held_in_int8()).right


def _work(seen: Family | None, device: Device) -> dict[str, Any]:
    """What is free on the device, and what a step needs of it."""
    free_bytes = int(model_management.get_free_memory(device.torch_device))
    asked, reserve_bytes = asked_size(), int(model_management.minimum_inference_memory())
    needed = step(seen, asked)
    if needed is None:
        return {"free_bytes": free_bytes, "work_bytes": reserve_bytes}
    step_bytes, size = needed
    work_of = f"with a step at {size}{'' if asked is None else _ASKED}"
    return {"free_bytes": free_bytes, "work_bytes": max(reserve_bytes, step_bytes), "work_of": work_of}


@contextlib.contextmanager
def gates_for(device: torch.device, paths: Iterable[Path]) -> Iterator[None]:
    """In the block, models are built to multiply in the files' formats, as far as the device's gates are open."""
    known_device = host_inventory().find(str(device))
    formats = {name for path in filter(_is_safetensors, paths) for part in contents(path) for name in part.format_bytes}
    with contextlib.nullcontext() if known_device is None else gates_open(known_device, formats):
        yield
