"""ComfyUI's MODELs held in int8."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..placement import Placement
from ..precision import INT8
from ..selftest.gates import product
from ..selftest.products import HELD_IN_INT8, Way
from ..weights.int8_layers import Holding, Int8Use, eligible, hold, holds_int8
from .cpu_engine import LINEARS, stop_if_asked
from .inventory import host_inventory


def in_int8(model: Any) -> bool:
    """Whether a MODEL's weights are held in int8 now."""
    return holds_int8(model.model)


def obstacle(model: Any) -> str:
    """What keeps a MODEL's weights from being held in int8; empty where nothing does."""
    network = getattr(model.model, "diffusion_model", None)
    if network is None or next(eligible(network, LINEARS), None) is None:
        return "none of its layers can be held in int8: they are quantised already, or of another kind"
    return ""


def residence(placement: Placement) -> str | None:
    """How much of a MODEL stays on the device that it is read to; None reads it where ComfyUI does.

    What is to be held in int8 goes to its device when it is.
    """
    return None if placement.precision == INT8 else placement.resident


def hold_in_int8(network: torch.nn.Module, *, for_good: bool = False) -> Holding:
    """Holds a network's linear layers in int8; see `xpu_utils.weights.int8_layers.hold`."""
    return hold(network, LINEARS, Int8Use(_products, stop_if_asked), for_good=for_good)


@functools.lru_cache(maxsize=32)
def _products(where: torch.device) -> bool:
    device = host_inventory().find(str(where))
    return device is not None and product(device, HELD_IN_INT8).way is Way.NATIVE
