"""Small pictures, sounds and videos in the places of those that templates load."""

from __future__ import annotations

import wave
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from .smaller import FRAMES, SIZE, Prompt

RATE_HZ = 16_000


def write_inputs(prompt: Prompt, folder: Path) -> None:
    """Writes what a prompt loads of ComfyUI's input folder, unless it is there."""
    for entry in prompt.values():
        for (kind, name), write in WRITERS.items():
            file = entry["inputs"].get(name)
            if entry["class_type"] == kind and isinstance(file, str) and not (folder / file).exists():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                write(folder / file)


def _picture(file: Path) -> None:
    ramp = numpy.linspace(0, 255, SIZE, dtype=numpy.uint8)
    colours = numpy.stack(
        [numpy.tile(ramp, (SIZE, 1)), numpy.tile(ramp[:, None], SIZE), numpy.full((SIZE, SIZE), 99)], -1
    )
    with file.open("wb") as stream:  # whatever the end of the name is
        Image.fromarray(colours.astype(numpy.uint8)).save(stream, "PNG")


def _tone() -> Any:
    return (numpy.sin(numpy.arange(RATE_HZ) * 0.1) * 9000).astype("<i2")


def _sound(file: Path) -> None:
    with file.open("wb") as stream, wave.open(stream, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE_HZ)
        sound.writeframes(_tone().tobytes())


def _video(file: Path) -> None:
    import av

    with file.open("wb") as stream, av.open(stream, "w", format="mp4") as container:
        pictures = container.add_stream("mpeg4", rate=16)
        pictures.width = pictures.height = SIZE
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=RATE_HZ)
        for index in range(2 * FRAMES):
            shade = numpy.full((SIZE, SIZE, 3), index * 10, dtype=numpy.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(shade)))
        samples = av.AudioFrame.from_ndarray(_tone()[None], format="s16", layout="mono")
        samples.sample_rate, samples.time_base = RATE_HZ, Fraction(1, RATE_HZ)
        container.mux(sound.encode(samples))
        container.mux([*pictures.encode(None), *sound.encode(None)])


WRITERS: Mapping[tuple[str, str], Callable[[Path], None]] = {
    ("LoadImage", "image"): _picture,
    ("LoadImageMask", "image"): _picture,
    ("LoadAudio", "audio"): _sound,
    ("LoadVideo", "file"): _video,
}
"""By a node's class and input."""
