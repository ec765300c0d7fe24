"""Models that no node of ours places: their own call is repeated, after memory was freed or on another device."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any

import comfy.model_management as model_management
import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name

from ...recovery.faults import is_lost
from .. import hooks
from ..inventory import as_default
from ..placing.placed import follow
from ..recovery.lost import readied
from ..recovery.moving import relocate
from ..recovery.rungs import carry_on
from ..recovery.weights import allow_a_host_copy
from ..stages import decided, run_stage
from ..target import retarget, unload
from .obstacles import served, why_not
from .touches import Touch, Work
from .twins import Twins

# What a hook is called -> the node that is there where ComfyUI has such models; their class, and its method. All have a
# patcher, and beside it the device that they take their input to.
WRAPPED = {
    "audio encoders": (
        "AudioEncoderEncode",
        "comfy.audio_encoders.audio_encoders",
        "AudioEncoderModel",
        "encode_audio",
    ),
    "background removal": ("RemoveBackground", "comfy.bg_removal_model", "BackgroundRemovalModel", "encode_image"),
    "depth estimation": ("MoGeInference", "comfy.ldm.moge.model", "MoGeModel", "infer"),
    "Hunyuan latent upscaling": (
        *("HunyuanVideo15LatentUpscaleWithModel", "comfy.ldm.hunyuan_video.upsampler"),
        *("HunyuanVideo15SRModel", "resample_latent"),
    ),
}
"""What is served -> a node that uses it, and the module, class and method that it calls."""
_NODES = (
    *("DA3Inference", "FrameInterpolate", "LTXVLatentUpsampler", "MoGePanoramaInference", "RTDETR_detect"),
    *("SAM3_Detect", "SAM3_VideoTrack", "VOIDWarpedNoise"),
)
"""Nodes that call a model by themselves and are repeated as a whole; their first model is the one that computes."""
NODES = "protected nodes"
_DOES = "a failing call is repeated"


class Repeating:
    """The touches on calls that are repeated as they are."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    def touches(self) -> tuple[Touch, ...]:
        """One for each kind of model that this ComfyUI has, and one for nodes."""
        present = host_nodes.NODE_CLASS_MAPPINGS
        wrapped = [
            Touch(
                f"protected {what}",
                _DOES,
                [(getattr(importlib.import_module(module), name), method, functools.partial(self._wrapped, what))],
            )
            for what, (node, module, name, method) in WRAPPED.items()
            if node in present
        ]
        whole = [(present[name], "execute", functools.partial(self._node, name)) for name in _NODES if name in present]
        return (*wrapped, Touch(NODES, _DOES, whole))

    def _wrapped(
        self, what: str, stock: Callable[..., Any], given: Any, *arguments: Any, **keywords: Any
    ) -> Work | None:
        return self._repeated(
            f"protected {what}", what, given, (arguments, keywords), lambda: stock(given, *arguments, **keywords)
        )

    def _node(self, name: str, stock: Callable[..., Any], node: Any, *arguments: Any, **keywords: Any) -> Work | None:
        models = [value for value in (*arguments, *keywords.values()) if hasattr(value, "load_device")]
        if not models:
            return None
        return self._repeated(
            NODES, name, models[0], (arguments, keywords), lambda: stock(node, *arguments, **keywords)
        )

    def _repeated(self, hook: str, stage: str, model: Any, given: object, call: Callable[[], Any]) -> Work | None:
        """
        Args:
            model: a patcher, or what has one and the device beside it that the model takes its input to.
            given: what the call is given.
        """
        patcher = getattr(model, "patcher", model)
        if not served(hook, patcher, why_not(patcher, patcher.model)):
            return None

        def attempt() -> Any:
            model.load_device = patcher.load_device
            # Where the node asks ComfyUI for its device instead.
            with as_default(patcher.load_device), _one_account(hook, type(model)):
                return call()

        def staged() -> Any:
            follow(patcher)
            readied(patcher, allow_a_host_copy)
            home = patcher.load_device
            placement = self._twins.placement(home)
            if placement.device.torch_device != home:
                relocate(patcher, placement.device, placement.reason)
            decided(placement)
            try:
                return carry_on(patcher, stage, attempt, given=given), placement
            finally:
                if patcher.load_device != home and not is_lost(home):
                    unload(patcher)
                    retarget(patcher, home)

        return lambda: run_stage(stage, staged)[0]


def _one_account(hook: str, kind: type) -> contextlib.AbstractContextManager[None]:
    """Has the module of a kind of model load through ComfyUI's memory management in the block.

    One of ComfyUI's imports that a second time, under another name: what is loaded, and what was lost, the second
    does not know.
    """
    module = sys.modules[kind.__module__]
    if getattr(module, "model_management", model_management) is model_management:
        return contextlib.nullcontext()
    return hooks.put_meanwhile(hook, module, _DOES, model_management=model_management)
