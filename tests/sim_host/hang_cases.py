"""Devices that hang in what only prepares a prompt, by `worker.py`."""

from __future__ import annotations

import types
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import torch

from tests import xpu_sim
from xpu_utils.host.recovery.rungs import Recovery, carry_on
from xpu_utils.host.recovery.weights import make_ready
from xpu_utils.host.running.companions import Companions
from xpu_utils.recovery.faults import lost_devices
from xpu_utils.recovery.watch import PATIENCE

from .switched import UNET

PATIENCE.least_seconds = 0.5


def _loaded() -> tuple[Any, torch.Tensor]:
    """A stock loader's model on ComfyUI's device, and one of its weights as it is."""
    patcher = comfy.sd.load_diffusion_model(UNET)
    make_ready(patcher)
    weight = next(patcher.model.parameters()).detach().float().clone()
    model_management.load_models_gpu([patcher], force_full_load=True)
    return patcher, weight


def _told(patcher: Any, weight: torch.Tensor, device: torch.device) -> Any:
    weights = [*patcher.model.parameters()]
    return {
        "lost": str(device) in lost_devices(),
        "on the host": all(weight.device.type == "cpu" for weight in weights),
        "equal": torch.equal(weights[0].float(), weight.cpu()),
    }


@contextmanager
def _hanging(device: torch.device) -> Iterator[None]:
    simulation = xpu_sim.current()
    simulation.set_faults([xpu_sim.Fault(operator="copy_", kind="hang", device=device.index)])
    try:
        yield
    finally:
        simulation.set_faults([])


def case_a_model_that_another_prompt_left_on_a_card() -> Any:
    patcher, weight = _loaded()
    there = patcher.load_device
    elsewhere = patcher.clone()
    elsewhere.load_device = torch.device("xpu", 4)
    with _hanging(there):
        Recovery(elsewhere, "sample")
    return _told(elsewhere, weight, there)


def case_a_companion_that_follows() -> Any:
    companion, weight = _loaded()
    there = companion.load_device
    model = comfy.sd.load_diffusion_model(UNET)
    model.load_device = torch.device("xpu", 5)
    model.set_additional_models("companion", [companion])
    guider = types.SimpleNamespace(model_patcher=model, conds={}, model_options=model.model_options)
    with _hanging(there):
        Companions(guider).follow(model.load_device)
    return {**_told(companion, weight, there), "follows": companion.load_device == model.load_device}


def case_work_of_another_size_is_new() -> Any:
    """The limits for a small picture, the same, a long video, and texts of one length and another."""
    patcher, _ = _loaded()
    stock, limits = PATIENCE.seconds, []

    def noted(work: Hashable) -> float:
        if isinstance(work, tuple) and "decode" in work:
            limits.append(stock(work))
        return stock(work)

    PATIENCE.seconds = noted
    small, video, text, longer = (
        torch.ones(1, 4, 8, 8),
        torch.ones(1, 4, 9, 8, 8),
        {"l": [[(1, 1.0)]]},
        {"l": [[(1, 1.0), (2, 1.0)]]},
    )
    for given in (small, small, video, text, text, longer):
        carry_on(patcher, "decode", lambda: None, given=given)
    return limits
