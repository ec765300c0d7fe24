"""Applies a CPU plan to models placed on the CPU: formats, layouts, attention and linear layers.

Everything is set on the placed object, through ComfyUI's object patches and attention override, and goes when another
placement of the same weights is loaded. Two settings are the process's: the number of threads and glibc's allocator.
`precision=fp32` asks for the reference: nothing here touches it.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.ldm.modules.diffusionmodules.model as vae_modules
import comfy.ldm.modules.diffusionmodules.openaimodel as unet_modules
import comfy.model_management as model_management
import comfy.ops
import comfy.sd1_clip
import torch

from ..calls import Call, StandIn
from ..cpu.allocator import give_back_freed_memory, keep_freed_memory
from ..cpu.layers import (
    channels_last,
    computes_as,
    exact_gelu,
    fast_convolutions,
    fast_linears,
    fast_upsampling,
    gated_gelu,
    patch_convolutions,
    picture_attention,
    stock_forward,
)
from ..cpu.plan import CpuPlan
from ..cpu.planning import cpu_plan
from . import hooks
from .attention import HINTS, attend_on_cpu, stock_vae_attention

ENGINE = hooks.named("cpu engine")
THREADS = hooks.named("cpu threads")
ALLOCATOR = hooks.named("allocator")

LINEARS = (torch.nn.Linear, comfy.ops.disable_weight_init.Linear)
"""Linear layers whose forward is x W^T + b."""

CONVOLUTIONS = (torch.nn.Conv2d, comfy.ops.disable_weight_init.Conv2d)

_TRANSFORMER = ("input_tokens", "attention_mask", "embeds")
"""The parameters of every text encoder's transformer, as far as all have the same ones."""


def machine_plan() -> CpuPlan | None:
    """The plan that work on this CPU follows; None where it is switched off."""
    return None if hooks.switched_off(ENGINE) else _machine_plan()


@functools.lru_cache(maxsize=1)
def _machine_plan() -> CpuPlan:
    plan = cpu_plan()
    if not hooks.switched_off(THREADS) and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(plan.threads)
        hooks.record(THREADS, hooks.State.APPLIED, f"PyTorch computes on {plan.threads} threads")
    if plan.keep_freed_memory and not hooks.switched_off(ALLOCATOR):
        if keep_freed_memory():
            _give_back_with_the_cache()
        else:
            hooks.record(ALLOCATOR, hooks.State.UNAVAILABLE, "the C library is not glibc")
    hooks.record(ENGINE, hooks.State.APPLIED, f"{plan.precision} is this CPU's fastest format")
    return plan


def _give_back_with_the_cache() -> None:
    """Has ComfyUI's emptying of caches, which follows the unloading of models, give freed host memory back too."""
    original = model_management.soft_empty_cache

    @functools.wraps(original)
    def soft_empty_cache(*arguments: Any, **keywords: Any) -> None:
        try:
            original(*arguments, **keywords)
        finally:  # a lost device ends the emptying of device caches
            give_back_freed_memory()

    does = "glibc keeps large freed blocks"
    hooks.put_for_good(ALLOCATOR, model_management, "soft_empty_cache", soft_empty_cache, does)


def use_on_model(model: Any, plan: CpuPlan, *, owned: bool) -> None:
    """Has a placed MODEL compute by the plan.

    Args:
        owned: nobody else holds these weights, so that their memory layout may change.
    """
    _use_on_patcher(model, plan)
    if owned and plan.channels_last:
        channels_last(model.model)
    if not hasattr(host_attention, "REGISTERED_ATTENTION_FUNCTIONS"):
        _replace_attention_modules(model, plan)


def use_on_clip(clip: Any, plan: CpuPlan, dtype: torch.dtype) -> None:
    """Has a placed CLIP compute by the plan, its transformers in `dtype`."""
    _use_on_patcher(clip.patcher, plan)
    for name, module in clip.patcher.model.named_modules():
        if dtype != torch.float32 and isinstance(module, comfy.sd1_clip.SDClipModel):
            forward = functools.partial(_text_transformer, stock_forward(module.transformer), dtype)
            clip.patcher.add_object_patch(f"{name}.transformer.forward".removeprefix("."), forward)


def _text_transformer(stock: Any, faster: torch.dtype, /, *arguments: Any, **keywords: Any) -> Any:
    """A text encoder's transformer in another dtype than the fp32 its caller names; the caller casts the result."""
    call = Call(_TRANSFORMER, arguments, keywords)
    if call.get("dtype") is None:  # the caller names none: nothing is known of what it does with the result
        return call.on(stock)
    embeds = call.get("embeds")
    faster_embeds = {} if embeds is None else {"embeds": embeds.to(faster)}
    return call.changed(dtype=faster, **faster_embeds).on(stock)


def use_on_vae(vae: Any, plan: CpuPlan, *, owned: bool) -> None:
    """Has a placed VAE compute by the plan; `owned` as for a MODEL."""
    _use_on_patcher(vae.patcher, plan)
    for name, module in vae.first_stage_model.named_modules():
        if isinstance(module, vae_modules.AttnBlock):
            stand_in = StandIn(stock_vae_attention(), picture_attention, plan)
            vae.patcher.add_object_patch(f"{name}.optimized_attention", stand_in)
    if owned and plan.channels_last:
        channels_last(vae.first_stage_model)


def use_on_controlnet(control: Any, plan: CpuPlan) -> None:
    """Has a placed CONTROL_NET compute by the plan."""
    patcher = control.control_model_wrapped
    _use_on_patcher(patcher, plan)
    _replace_attention_modules(patcher, plan)
    if control.manual_cast_dtype is None and control.control_model.dtype != torch.float32 and plan.channels_last:
        channels_last(patcher.model)


def _use_on_patcher(patcher: Any, plan: CpuPlan) -> None:
    for name, stand_in in fast_linears(patcher.model, plan, stop_if_asked, kinds=LINEARS):
        patcher.add_object_patch(name, stand_in)
    for name, stand_in in fast_convolutions(patcher.model, plan, stop_if_asked, kinds=CONVOLUTIONS):
        patcher.add_object_patch(name, stand_in)
    for name, stand_in in patch_convolutions(patcher.model):
        patcher.add_object_patch(name, stand_in)
    for name, module in patcher.model.named_modules():
        if computes_as(module, (host_attention.GEGLU,)):
            stand_in = StandIn(stock_forward(module), gated_gelu, plan.onednn_linear, module, before=stop_if_asked)
            patcher.add_object_patch(f"{name}.forward", stand_in)
        if plan.exact_gelu and computes_as(module, (torch.nn.GELU,)):
            stand_in = StandIn(stock_forward(module), exact_gelu, plan.exact_gelu, module)
            patcher.add_object_patch(f"{name}.forward", stand_in)
        if computes_as(module, (vae_modules.Upsample, unet_modules.Upsample)):
            stand_in = StandIn(stock_forward(module), _upsample, module, before=stop_if_asked)
            patcher.add_object_patch(f"{name}.forward", stand_in)


def forget(patcher: Any) -> None:
    """Takes what stands in for a model's layers off a patcher that was cloned from that model's over another one."""
    for name, patch in list(patcher.object_patches.items()):
        of_a_layer = isinstance(patch, StandIn) and name.endswith(".forward")
        if of_a_layer or getattr(patch, "func", None) is _text_transformer:
            del patcher.object_patches[name]


def stop_if_asked() -> None:
    """What each layer of newer hosts does first: raises when the user has stopped the prompt."""
    if hasattr(comfy.ops, "run_every_op"):
        comfy.ops.run_every_op()


def _upsample(module: Any, given: torch.Tensor, *, output_shape: Any = None) -> torch.Tensor | None:
    """The forward of ComfyUI's up-sampling layers (VAE and UNet), cheaper where it doubles and convolves."""
    return fast_upsampling(getattr(module, "conv", None), given) if _doubles(module, given, output_shape) else None


def _doubles(module: Any, given: torch.Tensor, output_shape: Any) -> bool:
    """Whether an up-sampling layer is to give twice the height and width of (N, C, H, W)."""
    doubled = tuple(2 * side for side in given.shape[2:])
    return getattr(module, "scale_factor", 2.0) == 2.0 and (output_shape is None or tuple(output_shape[2:]) == doubled)


def _replace_attention_modules(patcher: Any, plan: CpuPlan) -> None:
    """For hosts and models that pass no options down to their attention layers: replaces the layers' forwards."""
    for name, module in patcher.model.named_modules():
        if computes_as(module, (host_attention.CrossAttention,)):
            stand_in = StandIn(stock_forward(module), _cross_attention, module, plan, hints=HINTS)
            patcher.add_object_patch(f"{name}.forward", stand_in)


def _cross_attention(
    layer: Any,
    plan: CpuPlan,
    x: torch.Tensor,
    context: torch.Tensor | None = None,
    value: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> Any:
    """The forward of ComfyUI's CrossAttention with another attention function."""
    context = x if context is None else context
    q, k, v = layer.to_q(x), layer.to_k(context), layer.to_v(context if value is None else value)
    return layer.to_out(attend_on_cpu(plan, q, k, v, layer.heads, mask, layer.attn_precision))
