"""What will happen when a file is loaded to a device, said before it is read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from .choice import AUTO
from .machine.devices import Device
from .memory.sizes import GIB
from .residency import resident_share
from .streaming.plan import ring_size
from .weights.contents import Content, Held, Part, contents

RESERVED_BYTES = int(1.2 * GIB)
"""What ComfyUI keeps free for a step's work where it does not say (`minimum_inference_memory` on Linux)."""

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?")


@dataclasses.dataclass(frozen=True)
class Size:
    """What a step computes, in pixels."""

    width: int
    height: int
    frames: int | None = None
    """Of a video."""
    batch: int = 1

    @classmethod
    def of(cls, text: str) -> Size:
        """From "1024x1024", of a video "832x480x81".

        Raises:
            ValueError: it is nothing of the kind.
        """
        found = _SIZE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no size, write 1024x1024, or 832x480x81 for a video of 81 frames")
        return cls(int(found[1]), int(found[2]), int(found[3]) if found[3] else None)

    @property
    def volume(self) -> int:
        """All pixels."""
        return self.width * self.height * (self.frames or 1) * self.batch

    def __str__(self) -> str:
        frames = "one frame" if self.frames == 1 else f"{self.frames} frames" if self.frames else ""
        batch = f"{self.batch} at a time" if self.batch > 1 else ""
        return ", ".join(filter(None, (f"{self.width}x{self.height}", frames, batch)))


@dataclasses.dataclass(frozen=True)
class Forecast:
    """One file on one device."""

    parts: tuple[Part, ...]
    device: str
    free_bytes: int
    work_bytes: int
    """What a step needs beside the weights."""
    counted: str
    """How: the weights' format, and the work: "in fp16, with a step at 1024x1024"."""
    resident_bytes: int
    """Needed with all weights of the largest part there."""
    streamed_bytes: int
    """The least: the rest of the weights passes through."""
    stays_share: float
    """Of the weights, what will stay there; 1 is all."""

    def __str__(self) -> str:
        if self.parts[0].content is Content.LORA:
            return f"{holds(self.parts)}, which is added to a model's weights"
        needs = f"{self.resident_bytes / GIB:.1f} GiB"
        if self.streamed_bytes < self.resident_bytes:
            needs += f", or {self.streamed_bytes / GIB:.1f} GiB streamed"
        where = "main memory" if self.device == "cpu" else self.device
        free = f"{self.free_bytes / GIB:.1f} GiB of {where} are free"
        return f"{holds(self.parts)}; needs {needs} ({self.counted}), {free}: {self.outcome}"

    @property
    def outcome(self) -> str:
        """What will happen, in a few words."""
        if self.device == "cpu":
            fits = self.resident_bytes <= self.free_bytes
            return "runs where its weights are" if fits else "more than there is: it will swap or fail"
        if self.stays_share >= 1:
            fits = self.resident_bytes <= self.free_bytes
            return "all of it stays there" if fits else "more than is free: ComfyUI loads a part of it at a time"
        if self.streamed_bytes > self.free_bytes:
            return "too little even to stream: it goes on in smaller pieces, elsewhere or on the CPU"
        return f"{self.stays_share:.0%} stays there, the rest streams"


def forecast(
    path: Path,
    device: Device,
    free_bytes: int,
    *,
    resident: str = AUTO,
    work_bytes: int = RESERVED_BYTES,
    work_of: str = "with ComfyUI's reserve for a step",
    held: Held | None = None,
    alone: Content | None = None,
) -> Forecast:
    """What is in a safetensors file and what comes of loading it. Reads the file's header only.

    Args:
        free_bytes: on the device.
        resident: the share of the weights that was asked for, in the user's words.
        held, alone: as `contents` takes them.

    Raises:
        LoadError: the file cannot be read, or is no whole safetensors file.
        ValueError: `resident` is no share.
    """
    parts = contents(path, held, alone=alone)
    largest = _largest(parts)
    room_bytes = max(0, free_bytes - work_bytes)
    ring_bytes = ring_size((largest.largest_layer_bytes, largest.held_bytes), room_bytes)
    ring_bytes = min(ring_bytes, 2 * largest.largest_layer_bytes)
    streams = largest.content is Content.MODEL and not device.integrated and device.type != "cpu"
    share = resident_share(resident)
    if not streams or (share is None and largest.held_bytes < room_bytes) or share == 1:
        share = 1.0
    elif share is None:
        share = max(0.0, min(1.0, (room_bytes - ring_bytes) / max(1, largest.held_bytes)))
    return Forecast(
        parts,
        device.id,
        free_bytes,
        work_bytes,
        f"{f'in {held}' if held else 'as stored'}, {work_of}",
        largest.held_bytes + work_bytes,
        (ring_bytes if streams else largest.held_bytes) + work_bytes,
        share,
    )


def holds(parts: Sequence[Part]) -> str:
    """What a file holds, in a few words."""
    return f"the file holds {', '.join(map(str, parts))}"


def _largest(parts: Sequence[Part]) -> Part:
    """The part that decides: the diffusion model, or what is largest."""
    return next((part for part in parts if part.content is Content.MODEL), parts[0])
