"""Models that no node of ours places: their own call is repeated, after memory was freed or on another device."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name

from ...recovery.faults import is_lost
from ..placing.placed import follow
from ..recovery.rungs import carry_on
from ..stages import decided, run_stage
from ..target import unload
from .obstacles import served, why_not
from .touches import Touch, Work
from .twins import Twins, allow_a_host_copy

# What a hook is called -> the node that is there where ComfyUI has such models; their class, and its method. All have a
# patcher, and beside it the device that they take their input to.
_WRAPPED = {
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
LATENTS = "protected LTX latent upscaling"
_DOES = "a failing call is repeated"


class Repeating:
    """The touches on calls that are repeated as they are."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    def touches(self) -> tuple[Touch, ...]:
        """One for each kind of model that this ComfyUI has."""
        present = host_nodes.NODE_CLASS_MAPPINGS
        wrapped = [
            Touch(
                f"protected {what}",
                _DOES,
                [(getattr(importlib.import_module(module), name), method)],
                functools.partial(self._wrapped, what),
            )
            for what, (node, module, name, method) in _WRAPPED.items()
            if node in present
        ]
        upsampler = present.get("LTXVLatentUpsampler")
        if upsampler:
            wrapped.append(Touch(LATENTS, _DOES, [(upsampler, "execute")], self._latents))
        return tuple(wrapped)

    def _wrapped(
        self, what: str, stock: Callable[..., Any], given: Any, *arguments: Any, **keywords: Any
    ) -> Work | None:
        def call() -> Any:
            given.load_device = given.patcher.load_device
            return stock(given, *arguments, **keywords)

        return self._repeated(f"protected {what}", given.patcher, call)

    def _latents(self, stock: Callable[..., Any], node: Any, samples: Any, upscale_model: Any, vae: Any) -> Work | None:
        if not hasattr(upscale_model, "load_device"):
            return None
        return self._repeated(LATENTS, upscale_model, lambda: stock(node, samples, upscale_model, vae))

    def _repeated(self, hook: str, patcher: Any, call: Callable[[], Any]) -> Work | None:
        if not served(hook, patcher, why_not(patcher, patcher.model)):
            return None
        stage = hook.removeprefix("protected ")

        def staged() -> Any:
            follow(patcher)
            allow_a_host_copy(patcher)
            home = patcher.load_device
            placement = self._twins.placement(home)
            decided(placement)
            try:
                return carry_on(patcher, stage, call), placement
            finally:
                if patcher.load_device != home and not is_lost(home):
                    unload(patcher)
                    patcher.load_device = home

        return lambda: run_stage(stage, staged)[0]
