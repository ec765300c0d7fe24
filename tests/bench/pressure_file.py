"""`python -m tests.bench.pressure_file SHAPE PATH DEVICE`: writes a diffusion model of random weights."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file

from .comfyui import use_comfyui


def write(shape: str, path: str, device: str) -> None:
    """Writes one of `bench stream`'s shapes; the device only makes the random numbers."""
    from . import stream_turns

    model = stream_turns.build(stream_turns.SHAPES[shape], torch.device(device)).model.diffusion_model
    save_file({f"model.diffusion_model.{name}": weight for name, weight in model.state_dict().items()}, path)


if __name__ == "__main__":
    use_comfyui()
    write(*sys.argv[1:])
