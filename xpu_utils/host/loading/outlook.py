"""What a loader says before it reads: what the file holds, what that needs on its device, what will happen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import comfy.model_management as model_management
import torch

from ...forecast import Forecast, forecast
from ...placement import Placement
from ...weights.check import SAFETENSORS_SUFFIXES
from ...weights.contents import contents
from ...weights.header import LoadError
from ..gates import gates_open, ways
from ..inventory import host_inventory
from ..stages import decided
from .asked import asked_size
from .work import step

_THIS = "this prompt's"


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
    asked, reserve_bytes = asked_size(), int(model_management.minimum_inference_memory())
    needed = step(path, asked)
    if needed is None:
        return forecast(path, device, free_bytes, resident=placement.resident, work_bytes=reserve_bytes)
    step_bytes, size = needed
    work_of = f"with {'a' if asked is None else _THIS} step at {size}"
    work_bytes = max(reserve_bytes, step_bytes)
    return forecast(path, device, free_bytes, resident=placement.resident, work_bytes=work_bytes, work_of=work_of)


@contextlib.contextmanager
def gates_for(device: torch.device, paths: Iterable[Path]) -> Iterator[None]:
    """In the block, models are built to multiply in the files' formats, as far as the device's gates are open."""
    known_device = host_inventory().find(str(device))
    formats = {name for path in filter(_is_safetensors, paths) for part in contents(path) for name in part.format_bytes}
    with contextlib.nullcontext() if known_device is None else gates_open(known_device, formats):
        yield
