"""Which models are left to ComfyUI or to the pack that made them, and why."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrappersMP

from ...recovery.faults import is_lost
from .. import hooks
from ..inventory import host_inventory
from ..target import is_dynamic

COMPILE_KEY = "torch.compile"
"""Under which ComfyUI's compile node puts its wrapper on a model."""


def served(hook: str, patcher: Any, reason: str) -> bool:
    """Whether nothing stands against serving a model; if something does, the hook list gets it, by model."""
    if reason:
        hooks.record(f"{hook}, {type(patcher.model).__name__}", hooks.State.STOOD_DOWN, reason)
    return not reason


def why_not_model(patcher: Any) -> str:
    """Why a MODEL's sampling is left alone; empty where it is not."""
    if patcher.wrappers.get(WrappersMP.APPLY_MODEL, {}).get(COMPILE_KEY):
        return "the model is compiled for its device"
    if "diffusion_model" in patcher.object_patches:
        return "another node has replaced the diffusion model (compiled it, say)"
    if "multigpu_clones" in patcher.model_options or patcher.additional_models.get("multigpu"):
        return "the model is split over several devices"
    return why_not(patcher, getattr(patcher.model, "diffusion_model", None))


def why_not(patcher: Any, network: Any) -> str:
    """Why a model is left alone whose weights are in `network`; empty where it is not."""
    if is_dynamic(patcher):
        return "this ComfyUI streams the model's weights by itself"
    origin = type(network).__module__
    if not origin.startswith(("comfy.", "comfy_extras.")):
        return f"{origin} brings a network of its own, which may tie its weights to a device"
    device = patcher.load_device
    if host_inventory().find(str(device)) is None and not is_lost(device):
        return f"the model was given {device}, which is not a device that this pack works with here"
    return ""


def why_not_object(given: object, known: type) -> str:
    """Why a CLIP, VAE or CLIP_VISION of another class than ComfyUI's is left alone."""
    kind = type(given)
    return "" if kind is known else f"{kind.__module__} brings a {kind.__name__} of its own"
