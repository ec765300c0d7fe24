"""A custom node pack for the benchmark's server only: the networks of checkpoints compute by OpenVINO.

It stands for what a user of OpenVINO gets: a loaded network is converted at its first call, for the shapes of that
call. Text encoder and VAE stay ComfyUI's.
"""

from __future__ import annotations

import functools
from typing import Any

import comfy.sd
import torch

from xpu_utils.bench.openvino import NAMES, compiled

NODE_CLASS_MAPPINGS: dict[str, Any] = {}


class ByOpenVINO:
    """A network's forward, compiled for the shapes it meets."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network, self._stock = network, network.forward
        self._compiled: dict[tuple[torch.Size, ...], Any] = {}

    def __call__(self, x: Any, timesteps: Any, context: Any = None, y: Any = None, **_: Any) -> torch.Tensor:
        values = (x, timesteps, context, y)
        given = {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}
        shapes = tuple(value.shape for value in given.values())
        if shapes not in self._compiled:
            self._network.forward = self._stock
            self._compiled[shapes] = compiled(self._network, given)
            self._network.forward = self
        return torch.as_tensor(self._compiled[shapes](given)).to(x.dtype)


def _with_openvino(load: Any) -> Any:
    @functools.wraps(load)
    def loaded(*arguments: Any, **options: Any) -> Any:
        found = load(*arguments, **options)
        network = found[0].model.diffusion_model
        network.forward = ByOpenVINO(network)
        return found

    return loaded


comfy.sd.load_checkpoint_guess_config = _with_openvino(comfy.sd.load_checkpoint_guess_config)
