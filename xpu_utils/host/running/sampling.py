"""Samples with ComfyUI's own sampler nodes on a placed model, and refuses what cannot end well."""

from __future__ import annotations

from typing import Any

import comfy.model_management as model_management
import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name

from ...choice import AUTO
from ...decision import Kind, Subject
from ...memory.sizes import check_latent, check_step
from ...placement import Placement
from .. import int8
from ..choices import check_input
from ..inventory import placement_over
from ..placing.apply import apply
from ..placing.deciding import decide
from ..placing.formats import compute_dtype
from ..placing.placed import placement_of, set_placement
from ..recovery.patches import keep
from ..recovery.rungs import placement_after
from ..stages import decided
from ..streaming import obstacle
from ..target import HOST, clone_for, is_dynamic
from .copies import share_out
from .model_call import watch

MEMORY_ESTIMATE_MARGIN = 4.0
"""How far ComfyUI's estimate of a step's memory may exceed all the memory there is before we refuse to try."""


def sample(node_class: str, model: Any, latent: dict[str, Any], device: str, precision: str, **inputs: Any) -> Any:
    """Runs one of ComfyUI's sampler nodes on the model, placed first unless it is already.

    Args:
        node_class: "KSampler" or "KSamplerAdvanced".
        model: a MODEL.
        latent: a LATENT with `samples` of shape (N, C, H, W) or (N, C, T, H, W).
        device: requested device; "auto" leaves a placed model where it is.
        precision: requested precision; "auto" leaves a placed model's.
        inputs: the other inputs of the stock node.

    Returns:
        The sampled LATENT and the placement it ran with.

    Raises:
        ValueError: there is no such sampler or scheduler, the latent has no size or is far too large, or the weights
            or the conditioning hold NaN.
    """
    for name in ("sampler_name", "scheduler"):
        check_input(name, inputs[name])
    placed, placement = placed_model(model, device, precision)
    decided(placement)
    _check_latent(placed, latent["samples"], placement)
    (result,) = host_nodes.NODE_CLASS_MAPPINGS[node_class]().sample(model=placed, latent_image=latent, **inputs)
    return result, placement_after(placed, placement)


def placed_model(model: Any, device: str, precision: str) -> tuple[Any, Placement]:
    """The model as it is where it was placed already and nothing else is asked for, else newly placed.

    Raises:
        ValueError: the device string is malformed.
    """
    already = placement_of(model)
    if already is not None and device == AUTO and precision == AUTO:
        return model, already
    return place_model(model, placement_over(already, device, precision))


def place_model(model: Any, asked: Placement, *, owned: bool = False) -> tuple[Any, Placement]:
    """Places a MODEL; `owned` as in `apply`.

    Returns:
        The placed model, and the placement with the precision that is really in force.
    """
    keep(model)
    placed = clone_for(model, asked.device.torch_device)
    if placed.model is not model.model:  # ComfyUI keeps a model under its patcher's parent when the patcher is gone
        placed.parent = None
    subject = Subject(
        Kind.MODEL,
        compute_dtype(placed),
        dynamic=is_dynamic(placed),
        obstacle=obstacle(placed),
        in_int8=int8.in_int8(placed),
        int8_obstacle=int8.obstacle(placed),
    )
    decision = decide(asked, subject)
    share_out(placed)
    apply(decision, placed, owned=owned, watch=watch)
    placement = decision.placement
    if decision.in_int8:
        placement = placement.noting(int8.told(placed, placement.device))
        set_placement(placed, placement)
    return placed, placement


def _check_latent(model: Any, samples: Any, placement: Placement) -> None:
    if samples.is_nested:
        return
    check_latent(samples.shape)
    host_bytes = model_management.get_total_memory(HOST)
    limit_bytes = MEMORY_ESTIMATE_MARGIN * max(placement.device.total_bytes, host_bytes)
    check_step(samples.shape, model.memory_required(list(samples.shape)), limit_bytes)
