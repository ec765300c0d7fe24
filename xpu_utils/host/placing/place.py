"""Moves a MODEL, CLIP, VAE or other model object to a device: a new placement of the same weights."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import comfy.sd
import torch

from ...choice import AUTO
from ...cpu.layers import stock_forward
from ...placement import Placement
from ...precision import dtype_of, name_of
from ...selftest.result import best_precision, self_test
from .. import cpu_engine, hooks
from ..attention import use_attention, use_vae_attention
from ..inventory import placement_for
from ..recovery.lost import set_placement
from ..running.clip import PlacedCLIP
from ..running.clip_vision import PlacedClipVision
from ..running.conditions import moved
from ..running.model_call import watch
from ..running.vae import PlacedVAE
from ..streaming import attach
from ..target import clone_for, is_dynamic
from .formats import compute_dtype, note_dtypes, set_compute_dtype

BRIDGE = "ControlNet bridge"


def place_patcher(patcher: Any, placement: Placement) -> Any:
    """A clone of the patcher that loads to the placement's device; raises as `clone_for` does."""
    placed = clone_for(patcher, placement.device.torch_device)
    set_placement(placed, placement)
    return placed


def place_model(
    model: Any, placement: Placement, *, owned: bool = False, resident: str = AUTO
) -> tuple[Any, Placement]:
    """Places a MODEL and has it compute in the placement's precision.

    Args:
        owned: nobody else holds this model, so that the memory layout of its weights may change.
        resident: how much of the weights stays on the device, see `streaming.attach`.

    Returns:
        The placed model, and the placement with the precision that is really in force.
    """
    placed = attach(place_patcher(model, placement), resident)
    # ComfyUI keeps a model under its patcher's parent when the patcher is gone. A clone in between goes with it, and
    # the weights would stay loaded under nobody: never to be unloaded, and searched for with a full collection.
    placed.parent = model if placed.model is model.model else None
    if is_dynamic(placed) and resident != AUTO:
        placement = placement.because(f"DynamicVRAM decides what stays on {placement.device.id}, not {resident}")
    dtype, placement = _format_for(placement, compute_dtype(placed))
    set_compute_dtype(placed, dtype)
    plan = cpu_engine.plan_for(placement)
    if plan is not None:
        cpu_engine.use_on_model(placed, plan, owned=owned)
    use_attention(placed, placement, plan)
    watch(placed)
    effective = dataclasses.replace(placement, precision=name_of(compute_dtype(placed)), resident=resident)
    set_placement(placed, effective)
    return placed, effective


def _format_for(placement: Placement, chosen: torch.dtype) -> tuple[torch.dtype | None, Placement]:
    """What a placement computes in, where ComfyUI chose a format for its device already.

    Returns:
        The dtype, None for ComfyUI's choice; and the placement, with the reason where "auto" leaves that choice
        because the device computes it wrongly, or another than it asks for is computed in.
    """
    dtype, placement = cpu_engine.compute_dtype_for(placement)
    if dtype is not None or placement.precision != AUTO or placement.device.type == "cpu":
        return dtype, placement
    tested = self_test(placement.device)
    best = best_precision(placement.device, tested)
    if name_of(chosen) in tested.precisions or dtype_of(best) == chosen:
        return None, placement
    reason = f"{placement.device.id} computes {name_of(chosen)} wrongly (self-test), using {best}"
    return dtype_of(best), placement.because(reason)


def place_clip(clip: Any, placement: Placement) -> tuple[Any, Placement]:
    """Places a CLIP. Text encoders compute in fp32 whatever their weights are stored in: that is ComfyUI's way.

    The exception is a CPU that is faster in another format.

    Raises:
        ValueError: there is no CLIP.
    """
    if clip is None:
        raise ValueError("The checkpoint holds no text encoder: load one with XPU Load CLIP and connect that instead.")
    placed = PlacedCLIP.of(clip)
    placed.patcher = place_patcher(clip.patcher, placement)
    placed.cond_stage_model = placed.patcher.model
    plan, dtype = cpu_engine.plan_for(placement), None
    if plan is not None:
        dtype, placement = cpu_engine.compute_dtype_for(placement)
        cpu_engine.use_on_clip(placed, plan, dtype)
    effective = _in_fp32(placement, "a text encoder") if dtype is None else placement
    effective = dataclasses.replace(effective, precision=name_of(dtype or torch.float32))
    set_placement(placed.patcher, effective)
    return placed, effective


def _in_fp32(placement: Placement, what: str) -> Placement:
    """The placement of what ComfyUI computes in fp32, with the reason where another precision was asked for."""
    asked = placement.precision
    reason = "" if asked in (AUTO, "fp32") else f"{what} computes in fp32 on {placement.device.id}, not in {asked}"
    return dataclasses.replace(placement.because(reason), precision="fp32")


def place_vae(vae: Any, placement: Placement, *, owned: bool = False) -> tuple[Any, Placement]:
    """Places a VAE.

    Args:
        owned: nobody else holds this VAE, so that its weights may be converted where they are. A VAE's layers do
            not cast, so a shared one gets converted weights of its own: the one exception to one owner.

    Raises:
        ValueError: the VAE holds no weights.
    """
    check_vae(vae)
    # Another pack's kind of VAE keeps its own way with memory.
    placed = PlacedVAE.of(vae) if type(vae) in (comfy.sd.VAE, PlacedVAE) else copy.copy(vae)
    placed.patcher = place_patcher(vae.patcher, placement)
    placed.first_stage_model = placed.patcher.model
    placed.device = placement.device.torch_device
    owned = owned or placed.first_stage_model is not vae.first_stage_model
    dtype, placement = _format_for(placement, vae.vae_dtype)
    if dtype is not None and dtype != vae.vae_dtype and is_dynamic(placed.patcher):
        placement = placement.because(f"DynamicVRAM keeps a VAE in {name_of(vae.vae_dtype)}")
    elif dtype is not None and dtype != vae.vae_dtype:
        if not owned:
            placed.patcher.unpatch_model(unpatch_weights=False)  # the copy is to be the model itself, unpatched
            placed.first_stage_model = copy.deepcopy(vae.first_stage_model)
            placed.patcher.model = placed.first_stage_model
            placed.patcher.backup, placed.patcher.object_patches_backup = {}, {}  # clones share them, models cannot
        placed.first_stage_model.to(dtype)
        note_dtypes(placed.first_stage_model)
        placed.vae_dtype = dtype
        placed.patcher.size = 0  # measured again when next asked for
        owned = True
    if placement.device.type != "cpu":
        use_vae_attention(placed.patcher)
    plan = cpu_engine.plan_for(placement)
    if plan is not None:
        cpu_engine.use_on_vae(placed, plan, owned=owned)
    effective = dataclasses.replace(placement, precision=name_of(placed.vae_dtype))
    set_placement(placed.patcher, effective)
    return placed, effective


def check_vae(vae: Any) -> None:
    """Refuses a VAE object without weights.

    Raises:
        ValueError: the checkpoint it came from holds no VAE.
    """
    if getattr(vae, "first_stage_model", None) is None:
        raise ValueError("The checkpoint holds no VAE: load one with XPU Load VAE and connect that instead.")


def place_clip_vision(vision: Any, placement: Placement) -> tuple[Any, Placement]:
    """Places a CLIP_VISION, which ComfyUI computes in fp32 whatever its weights are stored in."""
    placed = PlacedClipVision.of(vision)
    placed.patcher = place_patcher(vision.patcher, placement)
    placed.model = placed.patcher.model
    effective = _in_fp32(placement, "a CLIP vision model")
    set_placement(placed.patcher, effective)
    return placed, effective


def place_controlnet(control: Any, placement: Placement) -> tuple[Any, Placement]:
    """Places a CONTROL_NET; its inputs and outputs follow the sampled model wherever that runs."""
    placed = control.copy()
    obstacle = _why_not_bridged(placed)
    if obstacle:
        default = dataclasses.replace(placement_for(AUTO, AUTO), requested=placement.requested)
        return placed, default.because(obstacle)
    placed.control_model_wrapped = place_patcher(placed.control_model_wrapped, placement)
    model = placed.control_model = placed.control_model_wrapped.model
    placed.load_device = placement.device.torch_device
    placed.control_model_wrapped.add_object_patch("forward", functools.partial(_bridged, model, stock_forward(model)))
    hooks.record(BRIDGE, hooks.State.APPLIED, "placed ControlNets take inputs from any device")
    plan = cpu_engine.plan_for(placement)
    if plan is not None:
        cpu_engine.use_on_controlnet(placed, plan)
    return placed, dataclasses.replace(placement, precision=name_of(placed.manual_cast_dtype or model.dtype))


def _why_not_bridged(control: Any) -> str:
    if not hasattr(control, "control_model_wrapped"):
        return "a T2I adapter runs where the sampled model runs"
    if hooks.switched_off(BRIDGE):
        return f"{BRIDGE} is switched off, so it runs where ComfyUI puts it"
    return ""


def _bridged(module: Any, stock: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
    """A module's forward with inputs from any device, and the answer on the device of its first tensor input."""
    origin = next(value.device for value in (*arguments, *keywords.values()) if isinstance(value, torch.Tensor))
    home = module.device  # kept by the patcher: where it loaded the weights to
    return moved(stock(*moved(arguments, home), **moved(keywords, home)), origin)
