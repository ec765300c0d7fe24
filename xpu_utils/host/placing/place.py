"""Moves a MODEL, CLIP, VAE or other model object to a device: a new placement of the same weights."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import comfy.sd
import torch
from comfy.patcher_extension import CallbacksMP

from ...choice import AUTO
from ...cpu.layers import stock_forward
from ...decision import Kind, Subject
from ...placement import Placement
from .. import cpu_engine, hooks
from ..attention import use_attention, use_vae_attention
from ..inventory import placement_for
from ..recovery.lost import set_placement
from ..running.clip import PlacedCLIP
from ..running.clip_vision import PlacedClipVision
from ..running.conditions import moved
from ..running.model_call import watch
from ..running.vae import PlacedVAE
from ..streaming import attach, not_followed
from ..target import HOST, becomes_dynamic, clone_for, read_again
from .deciding import decide
from .formats import compute_dtype, note_dtypes, set_compute_dtype

BRIDGE = hooks.named("ControlNet bridge")
COPIES = "multigpu"
"""Key of the additional models under which ComfyUI keeps a model's copies on other devices."""


def place_patcher(patcher: Any, placement: Placement) -> Any:
    """A clone of the patcher that loads to the placement's device; raises as `clone_for` does."""
    placed = clone_for(patcher, placement.device.torch_device)
    set_placement(placed, placement)
    return placed


def place_model(model: Any, asked: Placement, *, owned: bool = False) -> tuple[Any, Placement]:
    """Places a MODEL and has it compute in the precision that was asked for.

    Args:
        owned: nobody else holds this model, so that the memory layout of its weights may change.

    Returns:
        The placed model, and the placement with the precision that is really in force.
    """
    dynamic = becomes_dynamic(model, asked.device.torch_device)
    decision = decide(asked, Subject(Kind.MODEL, compute_dtype(model), dynamic=dynamic))
    placed = place_patcher(model, decision.placement)
    effective = decision.placement.noting(not_followed(placed, decision.placement.resident))
    placed = attach(placed, effective.resident)
    set_placement(placed, effective)
    # ComfyUI keeps a model under its patcher's parent when the patcher is gone. A clone in between goes with it, and
    # the weights would stay loaded under nobody: never to be unloaded, and searched for with a full collection.
    placed.parent = model if placed.model is model.model else None
    _share_out(placed)
    set_compute_dtype(placed, decision.dtype)
    if decision.plan is not None:
        cpu_engine.use_on_model(placed, decision.plan, owned=owned)
    use_attention(placed, decision.placement, decision.plan)
    watch(placed)
    return placed, effective


def _share_out(placed: Any) -> None:
    """Has a model be shared out among devices by newer hosts (MultiGPU CFG Split), before or after it was placed.

    As ComfyUI does it, what was a copy on the device where the model is now is none any more.
    """
    if not hasattr(CallbacksMP, "ON_MATCH_MULTIGPU_CLONES"):
        return
    kind = CallbacksMP.ON_MATCH_MULTIGPU_CLONES
    placed.remove_callbacks_with_key(kind, COPIES)
    placed.add_callback_with_key(kind, COPIES, _matched)
    copies = placed.get_additional_models_with_key(COPIES)
    placed.set_additional_models(COPIES, [copy for copy in copies if copy.load_device != placed.load_device])


def _matched(placed: Any, copy: Any) -> None:
    """Gives a copy, which ComfyUI makes anew for each run, the first copy as its parent.

    With the model as that they would keep each other, and the copy's weights would stay loaded under nobody.
    """
    former = next(known for known in placed.get_additional_models_with_key(COPIES) if known.model is copy.model)
    while former.parent is not None and former.parent.model is former.model:
        former = former.parent
    former.parent = None
    copy.parent = former


def place_clip(clip: Any, asked: Placement) -> tuple[Any, Placement]:
    """Places a CLIP.

    Raises:
        ValueError: there is no CLIP.
    """
    if clip is None:
        raise ValueError("The checkpoint holds no text encoder: load one with XPU Load CLIP and connect that instead.")
    decision = decide(asked, Subject(Kind.CLIP, torch.float32))
    placed = PlacedCLIP.of(clip)
    placed.patcher = place_patcher(clip.patcher, decision.placement)
    placed.cond_stage_model = placed.patcher.model
    if decision.plan is not None:
        cpu_engine.use_on_clip(placed, decision.plan, decision.dtype)
    return placed, decision.placement


def place_vae(vae: Any, asked: Placement, *, owned: bool = False) -> tuple[Any, Placement]:
    """Places a VAE.

    Args:
        owned: nobody else holds this VAE, so that its weights may be converted where they are. A VAE's layers do
            not cast, so a shared one gets converted weights of its own: the one exception to one owner.

    Raises:
        ValueError: the VAE holds no weights.
    """
    check_vae(vae)
    device = asked.device.torch_device
    decision = decide(asked, Subject(Kind.VAE, vae.vae_dtype, dynamic=becomes_dynamic(vae.patcher, device)))
    # Another pack's kind of VAE keeps its own way with memory.
    placed = PlacedVAE.of(vae) if type(vae) in (comfy.sd.VAE, PlacedVAE) else copy.copy(vae)
    placed.patcher = place_patcher(vae.patcher, decision.placement)
    placed.first_stage_model = placed.patcher.model
    placed.device = device
    owned = owned or placed.first_stage_model is not vae.first_stage_model
    if decision.dtype != vae.vae_dtype:
        if not owned:
            placed.patcher.unpatch_model(unpatch_weights=False)  # the copy is to be the model itself, unpatched
            placed.first_stage_model = copy.deepcopy(vae.first_stage_model)
            placed.patcher.model = placed.first_stage_model
            placed.patcher.backup, placed.patcher.object_patches_backup = {}, {}  # clones share them, models cannot
        _convert(placed.first_stage_model, decision.dtype)
        initialiser = getattr(placed.patcher, "cached_patcher_init", None)
        if initialiser is not None:
            placed.patcher.cached_patcher_init = (_read_converted, (initialiser, decision.dtype))
        placed.vae_dtype = decision.dtype
        placed.patcher.size = 0  # measured again when next asked for
        owned = True
    if device != HOST:
        use_vae_attention(placed.patcher)
    if decision.plan is not None:
        cpu_engine.use_on_vae(placed, decision.plan, owned=owned)
    return placed, decision.placement


def _read_converted(initialiser: Sequence[Any], dtype: torch.dtype, **keywords: Any) -> Any:
    """A patcher over a VAE's weights of its own, in the dtype that it was placed in."""
    patcher = read_again(initialiser, **keywords)
    _convert(patcher.model, dtype)
    return patcher


def _convert(network: torch.nn.Module, dtype: torch.dtype | None) -> None:
    network.to(dtype)
    note_dtypes(network)


def check_vae(vae: Any) -> None:
    """Refuses a VAE object without weights.

    Raises:
        ValueError: the checkpoint it came from holds no VAE.
    """
    if getattr(vae, "first_stage_model", None) is None:
        raise ValueError("The checkpoint holds no VAE: load one with XPU Load VAE and connect that instead.")


def place_clip_vision(vision: Any, asked: Placement) -> tuple[Any, Placement]:
    """Places a CLIP_VISION."""
    decision = decide(asked, Subject(Kind.CLIP_VISION, torch.float32))
    placed = PlacedClipVision.of(vision)
    placed.patcher = place_patcher(vision.patcher, decision.placement)
    placed.model = placed.patcher.model
    return placed, decision.placement


def place_controlnet(control: Any, asked: Placement) -> tuple[Any, Placement]:
    """Places a CONTROL_NET; its inputs and outputs follow the sampled model wherever that runs."""
    placed = control.copy()
    obstacle = _why_not_bridged(placed)
    if obstacle:
        default = dataclasses.replace(placement_for(AUTO, AUTO), requested=asked.requested)
        differs = (default.device, AUTO) != (asked.device, asked.precision)
        return placed, default.because(obstacle) if differs else default.noting(obstacle)
    held_in = placed.control_model.dtype
    computes_in = placed.manual_cast_dtype or held_in
    decision = decide(asked, Subject(Kind.CONTROLNET, computes_in, formats=(held_in, computes_in)))
    placed.control_model_wrapped = place_patcher(placed.control_model_wrapped, decision.placement)
    model = placed.control_model = placed.control_model_wrapped.model
    placed.load_device = asked.device.torch_device
    placed.control_model_wrapped.add_object_patch("forward", functools.partial(_bridged, model, stock_forward(model)))
    hooks.record(BRIDGE, hooks.State.APPLIED, "ControlNets take inputs from any device")
    if decision.plan is not None:
        cpu_engine.use_on_controlnet(placed, decision.plan, decision.dtype)
    return placed, decision.placement


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
