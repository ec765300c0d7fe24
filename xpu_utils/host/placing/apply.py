"""Does to an object what was decided: when it is placed, and when its work is carried over or repeated in fp32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...cpu.layers import channels_last
from ...decision import AttentionBy, Decision, Kind
from .. import cpu_engine
from ..attention import use_attention, use_vae_attention
from ..gates import shut_where_wrong
from ..int8 import hold_in_int8, in_int8, leave_hooks_uncached
from ..streaming import attach
from ..target import read_again
from .formats import note_dtypes, set_compute_dtype
from .placed import set_placement

Watch = Callable[[Any], None]
"""Has the model calls of a MODEL be repeated after a failure; once put on it, again does nothing."""


def apply(decision: Decision, thing: Any, *, owned: bool = False, watch: Watch | None = None) -> None:
    """Has an object compute as was decided.

    Args:
        thing: a MODEL, CLIP, CLIP_VISION, VAE, CONTROL_NET or placed UPSCALE_MODEL; its patcher loads to the
            decision's device already.
        owned: nobody else holds its weights, so that their format and memory layout may change where they are.
        watch: needed for a MODEL that is placed; one at work is watched.
    """
    if decision.kind in _APPLY:
        _APPLY[decision.kind](decision, thing, owned)
    if decision.watch and watch is not None:
        watch(thing)
    set_placement(getattr(thing, _PATCHERS[decision.kind], thing), decision.placement)


def _to_model(decision: Decision, model: Any, owned: bool) -> None:
    if decision.in_int8:
        leave_hooks_uncached(model)
    if decision.in_int8 and owned and not in_int8(model):
        hold_in_int8(model.model.diffusion_model, decision.placement.device.torch_device, for_good=True)
        note_dtypes(model.model.diffusion_model)
        model.size = 0  # measured again when next asked for
    if decision.streaming is not None:
        attach(model, decision.streaming)
    set_compute_dtype(model, decision.dtype)
    shut_where_wrong(model, decision.placement.device)
    if decision.plan is not None:
        cpu_engine.use_on_model(model, decision.plan, owned=owned)
    use_attention(model, decision.attention, decision.plan)


def _to_clip(decision: Decision, clip: Any, owned: bool) -> None:
    if decision.plan is not None:
        cpu_engine.use_on_clip(clip, decision.plan, decision.dtype)


def _to_vae(decision: Decision, vae: Any, owned: bool) -> None:
    vae.device = decision.placement.device.torch_device
    converted = decision.dtype != vae.vae_dtype
    if converted:
        _convert(vae, decision.dtype, owned=owned)
    if decision.attention is AttentionBy.BUDGET:
        use_vae_attention(vae.patcher)
    if decision.plan is not None:
        cpu_engine.use_on_vae(vae, decision.plan, owned=owned or converted)


def _convert(vae: Any, dtype: torch.dtype, *, owned: bool) -> None:
    """A VAE's layers do not cast, so a shared one gets converted weights of its own: the one exception to one owner."""
    if not owned:
        vae.patcher.unpatch_model(unpatch_weights=False)  # the copy is to be the model itself, unpatched
        vae.first_stage_model = copy.deepcopy(vae.first_stage_model)
        vae.patcher.model = vae.first_stage_model
        vae.patcher.backup, vae.patcher.object_patches_backup = {}, {}  # clones share them, models cannot
    _hold_in(vae.first_stage_model, dtype)
    initialiser = getattr(vae.patcher, "cached_patcher_init", None)
    if initialiser is not None:
        vae.patcher.cached_patcher_init = (_read_converted, (initialiser, dtype))
    vae.vae_dtype = dtype
    vae.patcher.size = 0  # measured again when next asked for


def _read_converted(initialiser: Sequence[Any], dtype: torch.dtype, **keywords: Any) -> Any:
    """A patcher over a VAE's weights of its own, in the dtype that it was placed in."""
    patcher = read_again(initialiser, **keywords)
    _hold_in(patcher.model, dtype)
    return patcher


def _hold_in(network: torch.nn.Module, dtype: torch.dtype) -> None:
    network.to(dtype)
    note_dtypes(network)


def _to_controlnet(decision: Decision, control: Any, owned: bool) -> None:
    control.load_device = decision.placement.device.torch_device
    control.manual_cast_dtype = None if control.control_model.dtype == decision.dtype else decision.dtype
    if decision.plan is not None:
        cpu_engine.use_on_controlnet(control, decision.plan)


def _to_upscaler(decision: Decision, upscaler: Any, owned: bool) -> None:
    if owned:
        upscaler.model.to(decision.dtype)
        if decision.plan is not None and decision.plan.channels_last:
            channels_last(upscaler.model)


_APPLY: Mapping[Kind, Callable[[Decision, Any, bool], None]] = {
    Kind.MODEL: _to_model,
    Kind.CLIP: _to_clip,
    Kind.VAE: _to_vae,
    Kind.CONTROLNET: _to_controlnet,
    Kind.UPSCALER: _to_upscaler,
}
_PATCHERS = dict.fromkeys(Kind, "patcher") | {Kind.CONTROLNET: "control_model_wrapped"}
"""The name of an object's patcher; a MODEL is one itself."""
