"""Devices that hang in what only prepares a prompt, or half way through what the next call reads, by `worker.py`."""

from __future__ import annotations

import threading
import types
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import torch

from tests import xpu_sim
from tests.families import listing
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.recovery.rungs import Recovery, carry_on
from xpu_utils.host.recovery.weights import make_ready, remember
from xpu_utils.host.running.companions import Companions
from xpu_utils.host.running.sampling import place_model
from xpu_utils.recovery.faults import is_lost, lost_devices
from xpu_utils.recovery.watch import PATIENCE

from .switched import UNET

PATIENCE.least_seconds = 0.5
VIDEO = "WAN21_CausalAR_T2V"
"""Its model keeps what it has computed of one part for the next ones; older hosts have none such."""


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
def _hanging(device: torch.device, operator: str = "copy_", nth: int = 1) -> Iterator[None]:
    simulation = xpu_sim.current()
    simulation.set_faults([xpu_sim.Fault(operator=operator, kind="hang", device=device.index, nth=nth)])
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


def case_an_autoregressive_video() -> Any:
    """A card hangs in the middle of one, and goes on while the video is made on another."""
    if VIDEO in listing.absent():
        return None
    (video,) = (subject for subject in listing.known() if subject.name == VIDEO)
    loaded = video.load()
    remember(loaded, VIDEO, lambda: video.load().model)
    model, _ = place_model(loaded, placement_for("xpu:3", "fp32"))
    there = model.load_device
    simulation = xpu_sim.current()
    simulation.reset_statistics()
    expected = video.work(model)
    calls = simulation.statistics().devices[there.index].count("aten::addmm")
    left: list[threading.Thread] = []

    def let_go_on(arguments: Any) -> Any:
        if is_lost(there) and not left:
            left.extend(thread for thread in threading.enumerate() if thread.name == f"work on {there}")
            simulation.let_go_on(there.index)
            for thread in left:
                thread.join()
        return arguments["denoised"]

    model.set_model_sampler_post_cfg_function(let_go_on)
    with _hanging(there, "addmm", nth=calls // 2):
        answer = video.work(model)
    return {"left behind": len(left), "equal": torch.equal(answer, expected)}


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
