"""What a loader says before it reads: what the file holds, what that needs on its device, what will happen."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import torch

from ...forecast import Forecast, forecast
from ...placement import Placement
from ...weights.check import SAFETENSORS_SUFFIXES
from ...weights.contents import contents
from ...weights.header import LoadError, entries
from ..gates import gates_open, ways
from ..inventory import host_inventory
from ..stages import decided

SIZE = (1024, 1024)
"""A step's work is told for a picture of so many pixels: a loader does not know what will be asked for."""
PREFIX = "model.diffusion_model."
_UNTOLD = (RuntimeError, LookupError, AttributeError, TypeError, ValueError, ArithmeticError, AssertionError)
"""What detection raises on families that are told by values, which are not read, and on weights of no family: the
loader meets the same, and says what is wrong."""
_GUIDED = 2
"""Pictures that a step with guidance computes at once."""


def told(placement: Placement, *paths: Path) -> Placement:
    """The placement with a note for each file of what will happen, which is shown while the file is read."""
    try:
        for path in filter(_is_safetensors, paths):
            ahead = _ahead(path, placement)
            placement = placement.noting("; ".join(filter(None, (str(ahead), _ways(ahead, placement)))))
    except LoadError:  # the file's check says what is wrong with it, and what to do
        return placement
    decided(placement)
    return placement


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() in SAFETENSORS_SUFFIXES


def _ways(ahead: Forecast, placement: Placement) -> str:
    """What the device does with the file's formats, as far as that is known."""
    formats = {name for part in ahead.parts for name in part.format_bytes}
    return ", ".join(f"{found.format} is {found.way.value} there" for found in ways(placement.device, formats))


def _ahead(path: Path, placement: Placement) -> Forecast:
    device = placement.device
    free_bytes = int(model_management.get_free_memory(device.torch_device))
    step_bytes = _step_bytes(path)
    reserve_bytes = int(model_management.minimum_inference_memory())
    if step_bytes is None:
        return forecast(path, device, free_bytes, resident=placement.resident, work_bytes=reserve_bytes)
    work_of = f"with a step at {SIZE[0]}x{SIZE[1]}"
    work_bytes = max(reserve_bytes, step_bytes)
    return forecast(path, device, free_bytes, resident=placement.resident, work_bytes=work_bytes, work_of=work_of)


@contextlib.contextmanager
def gates_for(device: torch.device, paths: Iterable[Path]) -> Iterator[None]:
    """In the block, models are built to multiply in the files' formats, as far as the device's gates are open."""
    known_device = host_inventory().find(str(device))
    formats = {name for path in filter(_is_safetensors, paths) for part in contents(path) for name in part.format_bytes}
    with contextlib.nullcontext() if known_device is None else gates_open(known_device, formats):
        yield


def _step_bytes(path: Path) -> int | None:
    """ComfyUI's own estimate of a step, by the family that it sees in names and shapes; None where it sees none."""
    detection: Any = getattr(comfy.sd, "model_detection", None)
    if detection is None:
        return None
    shapes: Mapping[str, Any] = {
        entry.name: torch.empty(entry.shape, dtype=entry.dtype or torch.uint8, device="meta") for entry in entries(path)
    }
    prefix = PREFIX if any(name.startswith(PREFIX) for name in shapes) else ""
    try:
        config = detection.model_config_from_unet(dict(shapes), prefix)
    except _UNTOLD:
        return None
    if config is None:
        return None
    side = [size / getattr(config.latent_format, "spacial_downscale_ratio", 8) for size in SIZE]
    area = _GUIDED * math.prod(side)
    return int(area * 2 * 0.01 * config.memory_usage_factor * (1 << 20))
