"""What a placed upscale model does after failures, on a simulated device; see worker.py."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from comfy_execution.utils import CurrentNodeContext
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from spandrel import ModelLoader

from tests import xpu_sim
from tests.harness.synthetic import LAYOUTS, random_weights
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.recovery.rungs import placement_after
from xpu_utils.host.running.upscaling import PlacedUpscaler, upscale
from xpu_utils.recovery.faults import lost_devices

SIDE = 200


def _model() -> Any:
    shapes = LAYOUTS["upscaler-2x"][1]()
    return ModelLoader().load_from_state_dict(random_weights(shapes, seed=0, dtype=torch.float32)).eval()


def _picture() -> torch.Tensor:
    return torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))


def _upscaled(*faults: xpu_sim.Fault, by_stock_node: bool = False) -> dict[str, Any]:
    """Upscales with the faults set, and tells how the picture differs from the CPU's."""
    expected, _ = upscale(_model(), _picture(), "cpu", "fp32")
    simulation = xpu_sim.current()
    simulation.set_faults(faults)
    placed = PlacedUpscaler(_model(), placement_for("xpu:0", "fp32"))
    with CurrentNodeContext("a prompt", "its node"):
        if by_stock_node:
            picture = ImageUpscaleWithModel().upscale(placed, _picture())[0]
        else:
            picture, _ = upscale(placed, _picture(), "auto", "auto")
    ran = placement_after(placed.patcher, placed.placement)
    fired = simulation.statistics().faults_fired
    simulation.clear_faults()
    return {
        "fired": list(fired),
        "largest_difference": float((picture - expected).abs().max()),
        "spread": float(expected.std()),
        "device": ran.device.id,
        "reason": ran.reason,
        "next_device": placed.placement.device.id,
        "on_host": {str(tensor.device) for tensor in placed.model.parameters()} == {"cpu"},
        "lost": sorted(lost_devices()),
    }


def case_undisturbed() -> Any:
    return _upscaled()


def _by_both(fault: xpu_sim.Fault) -> dict[str, Any]:
    return {"ours": _upscaled(fault), "stock_node": _upscaled(fault, by_stock_node=True)}


def case_once_out_of_memory() -> Any:
    return _by_both(xpu_sim.Fault(operator="convolution", kind="out_of_device_memory"))


def case_always_out_of_memory() -> Any:
    return _by_both(xpu_sim.Fault(operator="convolution", kind="out_of_resources", times=None))


def case_first_device_out_of_memory() -> Any:
    return _by_both(xpu_sim.Fault(operator="convolution", kind="out_of_resources", times=None, device=0))


def case_copies() -> Any:
    """What copies of a placed upscaler are, and whether each upscales as it does."""
    placed = PlacedUpscaler(_model(), placement_for("xpu:1", "fp32"))
    expected, _ = upscale(placed, _picture(), "auto", "auto")
    return {made.__name__: _compared(made(placed), placed, expected) for made in (copy.copy, copy.deepcopy)}


def _compared(other: PlacedUpscaler, placed: PlacedUpscaler, expected: torch.Tensor) -> dict[str, Any]:
    picture, placement = upscale(other, _picture(), "auto", "auto")
    return {
        "device": placement.device.id,
        "equal": torch.equal(picture, expected),
        "same_patcher": other.patcher is placed.patcher,
        "same_weights": other.model is placed.model,
    }


def case_pickles() -> Any:
    """Why upscalers cannot be pickled: the host's kind, and ours of it."""
    return [_why_not_pickled(thing) for thing in (_model(), PlacedUpscaler(_model(), placement_for("xpu:1", "fp32")))]


def _why_not_pickled(thing: Any) -> str:
    try:
        pickle.dumps(thing)
    except (AttributeError, pickle.PicklingError) as error:
        return str(error)
    return ""


def case_lost() -> Any:
    """Last: the device stays lost."""
    first = _upscaled(xpu_sim.Fault(operator="convolution", kind="device_lost", nth=2))
    return {"first": first, "next": _upscaled()}
