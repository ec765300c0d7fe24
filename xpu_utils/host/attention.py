"""The attention that placed models use: within a memory budget on accelerators, by the measured paths on the CPU.

Diffusion models get it through ComfyUI's official override, VAEs as an object patch of their attention blocks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.ldm.modules.diffusionmodules.model as vae_modules
import comfy.model_management as model_management
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP

from ..calls import Call, StandIn
from ..cpu.attention import attention
from ..cpu.plan import CpuPlan
from ..decision import AttentionBy
from ..machine.devices import Device
from ..memory.attention import (
    SMALLEST_BYTES,
    Attend,
    AttentionBudget,
    attend_in_chunks,
    attend_in_fp32,
    budget_for,
    chunks_for,
)
from ..selftest.attention import ATTEND, Attending
from ..selftest.result import attends_by, attends_wrongly
from . import hooks
from .inventory import host_inventory
from .neighbours import attends_without_scores

HOOK = hooks.named("attention override")
VAE_HOOK = hooks.named("vae attention")
OVERRIDE = "optimized_attention_override"
BUDGET = "xpu_nodes.attention_budget_bytes"
"""Key in a model call's transformer_options: the bytes that no temporary may exceed, set after a failure. Then no
kernel is trusted to be fused."""

MEASURED_BUDGET = "xpu_nodes.measured_attention_budget"
"""Key in a model call's transformer_options: its AttentionBudget, from the memory that was free when it began."""

WHOLE = "xpu_nodes.attention_as_a_whole"
"""Key in a model call's transformer_options: the kinds of its attention calls that go to the host's function as they
are. Most of a call's hundred and more are of few kinds, and finding out costs milliseconds of the host's time."""

_APPLIED = "attention takes no more memory than there is, and is computed the way that measured fastest"
_ANOTHERS = "another pack has set its own attention on the model"
_LIMIT_THEMSELVES = (
    *("attention_sub_quad", "attention_split", "attention_xformers", "attention_flash"),
    *("attention_sage", "attention3_sage", "attention_comfy_kitchen_int8"),
)
HINTS = ("transformer_options", "enable_gqa", "low_precision_attention", "_inside_attn_wrapper")
"""What attention is told and what does not change its result here."""

_ATTENTION = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")
_APPLY_MODEL = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options")
"""The parameters of the host's functions."""


def use_attention(model: Any, way: AttentionBy, plan: CpuPlan | None) -> None:
    """Has a MODEL attend as was decided.

    A no-op for ComfyUI's own way (the reference on the CPU), where it has no override, and where another pack has set
    its own on the model.
    """
    if hooks.switched_off(HOOK):
        return
    if not hasattr(host_attention, "REGISTERED_ATTENTION_FUNCTIONS"):
        hooks.record(HOOK, hooks.State.UNAVAILABLE, "this ComfyUI has no attention override")
        return
    options = model.model_options.setdefault("transformer_options", {})
    if way is AttentionBy.STOCK and OVERRIDE not in options:
        return
    if not isinstance(options.get(OVERRIDE, PlacedAttention(plan)), PlacedAttention):
        hooks.record(HOOK, hooks.State.STOOD_DOWN, _ANOTHERS)
        return
    options[OVERRIDE] = PlacedAttention(plan)
    if not model.get_wrappers(WrappersMP.APPLY_MODEL, HOOK):
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, HOOK, _with_budget)
    hooks.record(HOOK, hooks.State.APPLIED, _APPLIED)


def placed_attention(options: Mapping[str, Any]) -> PlacedAttention | None:
    """Our attention, where the options of a MODEL or of a call have it."""
    attention = options.get("transformer_options", {}).get(OVERRIDE)
    return attention if isinstance(attention, PlacedAttention) else None


def device_budget(device: torch.device) -> AttentionBudget:
    """The budget for one attention call on an accelerator, from what is free on it now."""
    known = _known(device)
    free_bytes = model_management.get_free_memory(device)
    if known is None:
        return budget_for(free_bytes, None)
    limit_bytes = known.single_allocation_limit_bytes
    return budget_for(free_bytes, limit_bytes, fused_head_dims=known.profile.flash_head_dims)


def smaller_budget_bytes(device: torch.device) -> int:
    """What to repeat a failed model call with under `BUDGET`: a quarter of what it would have now."""
    return max(SMALLEST_BYTES, device_budget(device).temporary_bytes // 4)


@functools.lru_cache(maxsize=16)
def _known(device: torch.device) -> Device | None:
    return host_inventory().find(str(device))


def _with_budget(executor: Any, /, *arguments: Any, **keywords: Any) -> Any:
    """An APPLY_MODEL wrapper that measures the call's budget once; the options are the call's own.

    It also sees whether another pack has put its attention in our place since the model was placed.
    """
    call = Call(_APPLY_MODEL, arguments, keywords)
    device, options = call.get("x").device, call.get("transformer_options")
    if options is None:
        call = call.changed(transformer_options=(options := {}))
    if isinstance(options.get(OVERRIDE), PlacedAttention):
        hooks.record(HOOK, hooks.State.APPLIED, _APPLIED)
    else:
        hooks.record(HOOK, hooks.State.STOOD_DOWN, _ANOTHERS)
    if device.type != "cpu":
        options[MEASURED_BUDGET], options[WHOLE] = device_budget(device), set()
    return call.on(executor)


@dataclasses.dataclass(frozen=True)
class PlacedAttention:
    """An `optimized_attention_override`, for whatever device a call's tensors are on."""

    plan: CpuPlan | None
    """Paths on the CPU; None leaves that to the host."""

    def __call__(self, function: Any, /, *arguments: Any, **keywords: Any) -> Any:
        call = Call(_ATTENTION, arguments, keywords)
        if call.get("q").device.type != "cpu":
            return _within_budget(function, call)
        if self.plan is not None:
            return StandIn(function, attend_on_cpu, self.plan, hints=HINTS)(*arguments, **keywords)
        return call.on(function)


def _within_budget(function: Any, call: Call) -> Any:
    """A function of the host or of another pack, called for pieces where the scores of the whole exceed the budget."""
    given = call.given()
    options = given.get("transformer_options") or {}
    if BUDGET not in options and function in _limit_themselves():
        return call.on(function)
    q, k, v, heads = (given.pop(name) for name in _ATTENTION[:4])
    mask, reshaped = given.get("mask"), bool(given.get("skip_reshape"))
    asked = (mask is None, reshaped, given.get("attn_precision"), given.get("enable_gqa"), "scale" in given)
    kind, whole = (function, q.shape, k.shape, q.dtype, heads, *asked), options.get(WHOLE, set())
    if kind in whole:
        return call.on(function)
    budget = _budget(options, q.device)
    # From the shapes alone: a view of each tensor for each layer is milliseconds of the host's time a step.
    q_shape, k_shape = (t.shape if reshaped else _shape_by_heads(t, q.shape[-1] // heads) for t in (q, k))
    head_dim = q_shape[-1]
    instead = _instead(q, q_shape, k_shape, given, budget) if function is _sdpa() else None
    scores = instead is not None or budget.needs_scores(head_dim, mask)
    chunks = chunks_for(q_shape, k_shape, budget.temporary_bytes) if scores else None
    if chunks is not None and BUDGET not in options and attends_without_scores(function, q_shape, q.dtype, given):
        chunks = None
    if chunks is None and instead is None:
        whole.add(kind)
        return call.on(function)
    q4, k4, v4 = (q, k, v) if reshaped else _by_heads(q, k, v, head_dim)
    piecewise = {**given, "skip_reshape": True, "skip_output_reshape": True}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> Any:
        return function(q, k, v, q.shape[1], **{**piecewise, "mask": mask})

    out = attend_in_chunks(instead or attend, q4, k4, v4, mask, chunks)
    return out if given.get("skip_output_reshape") else out.transpose(1, 2).flatten(2)


def _instead(
    q: torch.Tensor,
    q_shape: tuple[int, ...],
    k_shape: tuple[int, ...],
    given: Mapping[str, Any],
    budget: AttentionBudget,
) -> Attend | None:
    """What attends in place of PyTorch's own, where that is wrong or slower; None where nothing does."""
    known = _known(q.device)
    if known is None:
        return None
    if attends_wrongly(known, q_shape[-1], q.dtype):
        return functools.partial(attend_in_fp32, scale=given.get("scale"))
    if given.get("attn_precision") == torch.float32:
        return None  # what a model asks for whose scores are too large for fp16
    masked, most_bytes = given.get("mask") is not None, budget.temporary_bytes
    way = attends_by(known, q_shape, k_shape, q.dtype, masked=masked, most_bytes=most_bytes)
    return None if way is Attending.OWN else functools.partial(ATTEND[way], scale=given.get("scale"))


def _budget(options: dict[str, Any], device: torch.device) -> AttentionBudget:
    if BUDGET in options:
        return AttentionBudget(options[BUDGET])
    return options.get(MEASURED_BUDGET) or device_budget(device)


@functools.lru_cache(maxsize=1)
def _limit_themselves() -> frozenset[Any]:
    """The host's functions that keep their scores small, as an override gets them: without their wrapper."""
    functions = [getattr(host_attention, name, None) for name in _LIMIT_THEMSELVES]
    return frozenset(getattr(function, "__wrapped__", function) for function in functions if function is not None)


def _sdpa() -> Any:
    """The host's attention by PyTorch's own, as an override gets it."""
    return getattr(host_attention.attention_pytorch, "__wrapped__", host_attention.attention_pytorch)


def _shape_by_heads(t: torch.Tensor, head_dim: int) -> tuple[int, int, int, int]:
    batch, tokens, width = t.shape
    return batch, width // head_dim, tokens, head_dim


def _by_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, ...]:
    return tuple(t.unflatten(-1, (-1, head_dim)).transpose(1, 2) for t in (q, k, v))


def attend_on_cpu(
    plan: CpuPlan,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """The host's attention call on the CPU, by the plan's path for its shape."""
    dtype = attn_precision or q.dtype
    keys, width = k.shape[-2], q.shape[-1] // (1 if skip_reshape else heads)
    out = attention(
        q.to(dtype),
        k.to(dtype),
        v.to(dtype),
        heads,
        mask,
        path=plan.attention_path(dtype, q.shape[-2], keys, width),
        skip_reshape=skip_reshape,
        skip_output_reshape=skip_output_reshape,
        scale=scale,
    )
    return out.to(q.dtype)


def use_vae_attention(patcher: Any) -> None:
    """Has a VAE placed on an accelerator attend within a budget in the blocks that attend over all pixels."""
    if hooks.switched_off(VAE_HOOK):
        return
    for name, module in patcher.model.named_modules():
        if hasattr(module, "optimized_attention"):
            hooks.record(VAE_HOOK, hooks.State.APPLIED, "attention of VAEs takes no more memory than there is")
            stand_in = StandIn(stock_vae_attention(), _attend_to_pixels)
            patcher.add_object_patch(f"{name}.optimized_attention", stand_in)


@functools.lru_cache(maxsize=1)
def stock_vae_attention() -> Any:
    """ComfyUI's choice, which it logs at every call."""
    return vae_modules.vae_attention()


def _attend_to_pixels(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor | None:
    """AttentionBy of a VAE with one head over all pixels, in pieces: (batch, channels, height, width) in and out.

    None where it need not be in pieces.
    """
    if q.device.type == "cpu":
        return None
    budget = device_budget(q.device)
    q1, k1, v1 = (t.flatten(2).transpose(1, 2).unsqueeze(1) for t in (q, k, v))
    chunks = chunks_for(q1.shape, k1.shape, budget.temporary_bytes) if budget.needs_scores(q.shape[1], None) else None
    if chunks is None:
        return None
    out = attend_in_chunks(_attend, q1, k1, v1, None, chunks)
    return out.squeeze(1).transpose(1, 2).reshape(q.shape)


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
