"""OpenVINO's version of a network, for comparison: what a user with a CPU would pick instead.

Also a custom node pack for the benchmark's server, where a loaded network is converted at its first call, for the
shapes of that call. Text encoder and VAE stay ComfyUI's.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch

NAMES = ("x", "timesteps", "context", "y")
"""The parameters of a network that it has as inputs, in the order that OpenVINO takes them."""


def installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def compiled(network: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> Any:
    """A function of the same inputs, in bf16 where OpenVINO says that the CPU can; converting takes up to a minute."""
    import openvino

    core = openvino.Core()
    precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    inputs = ordered(given)
    model = openvino.convert_model(network.requires_grad_(False), example_input=inputs)
    program = core.compile_model(model, "CPU", options)

    def call(given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(program([tensor.numpy() for tensor in ordered(given).values()])[0].copy())

    return call


def ordered(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs in fp32 and in OpenVINO's order."""
    return {name: given[name].float() for name in NAMES if name in given}


async def comfy_entrypoint() -> Any:
    """What the server calls: from here on its checkpoints compute by OpenVINO."""
    import comfy.sd
    from comfy_api.latest import ComfyExtension

    class NoNodes(ComfyExtension):
        async def get_node_list(self) -> list[Any]:
            return []

    comfy.sd.load_checkpoint_guess_config = _with_openvino(comfy.sd.load_checkpoint_guess_config)
    return NoNodes()


def _with_openvino(load: Any) -> Any:
    @functools.wraps(load)
    def loaded(*arguments: Any, **options: Any) -> Any:
        found = load(*arguments, **options)
        network = found[0].model.diffusion_model
        network.forward = _ByOpenVINO(network)
        return found

    return loaded


class _ByOpenVINO:
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
