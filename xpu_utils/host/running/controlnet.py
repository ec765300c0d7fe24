"""A ControlNet on a device of its own, whatever the sampled model's is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ...cpu.layers import stock_forward
from ...decision import Kind, Subject
from ...placement import Placement
from .. import hooks
from ..inventory import left_where_it_is
from ..placing.apply import apply
from ..placing.deciding import decide
from ..target import clone_for
from .conditions import moved

BRIDGE = hooks.named("ControlNet bridge")


def place_controlnet(control: Any, asked: Placement) -> tuple[Any, Placement]:
    """Places a CONTROL_NET; its inputs and outputs follow the sampled model wherever that runs."""
    placed = control.copy()
    obstacle = _why_not_bridged(placed)
    if obstacle:
        return placed, left_where_it_is(asked, obstacle)
    held_in = placed.control_model.dtype
    computes_in = placed.manual_cast_dtype or held_in
    decision = decide(asked, Subject(Kind.CONTROLNET, computes_in, formats=(held_in, computes_in)))
    placed.control_model_wrapped = clone_for(placed.control_model_wrapped, asked.device.torch_device)
    model = placed.control_model = placed.control_model_wrapped.model
    placed.control_model_wrapped.add_object_patch("forward", functools.partial(_bridged, model, stock_forward(model)))
    hooks.record(BRIDGE, hooks.State.APPLIED, "ControlNets take inputs from any device")
    apply(decision, placed)
    return placed, decision.placement


def _why_not_bridged(control: Any) -> str:
    if not hasattr(control, "control_model_wrapped"):
        return "this kind of ControlNet runs where the sampled model runs"
    if hooks.switched_off(BRIDGE):
        return f"{BRIDGE} is switched off, so it runs where ComfyUI puts it"
    return ""


def _bridged(module: Any, stock: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """A module's forward with inputs from any device, and the answer on the device of its first tensor input."""
    origin = next(value.device for value in (*arguments, *keywords.values()) if isinstance(value, torch.Tensor))
    home = module.device  # kept by the patcher: where it loaded the weights to
    return moved(stock(*moved(arguments, home), **moved(keywords, home)), origin)
