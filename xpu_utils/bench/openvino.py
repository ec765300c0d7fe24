"""OpenVINO's version of a network, for comparison: what a user with a CPU would pick instead."""

from __future__ import annotations

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
