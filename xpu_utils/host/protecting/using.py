"""At the point of use: what samples, decodes, encodes or upscales for stock nodes works on the model's placed twin."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import comfy.clip_vision
import comfy.k_diffusion.sampling as k_sampling
import comfy.model_management as model_management
import comfy.samplers
import comfy.sd
import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name
from comfy_api.latest import io

from ...choice import AUTO
from ...recovery.faults import is_lost
from ..attention import OVERRIDE
from ..placing.placed import placement_of
from ..recovery.rungs import placement_after
from ..running import noise
from ..running.clip import PlacedCLIP
from ..running.clip_vision import PlacedClipVision
from ..running.coding import with_tiling
from ..running.upscaling import PlacedUpscaler, upscale
from ..running.vae import PlacedVAE
from ..stages import decided, run_stage
from .obstacles import served, why_not, why_not_model, why_not_object
from .touches import Offer, Touch, Work
from .twins import Twins, default_device

SAMPLING = "protected sampling"
CODING = "protected VAEs"
ENCODING = "protected text encoders"
VISION = "protected CLIP vision"
UPSCALING = "protected upscaling"
NOISE = "protected noise"

_CODING = ("decode", "encode", "decode_tiled", "encode_tiled")
_ENCODING = ("encode_from_tokens", "encode_from_tokens_scheduled", "generate")


class Using:
    """The touches at the point of use, and the twins that they work on."""

    def __init__(self, twins: Twins) -> None:
        self._twins = twins

    def touches(self) -> tuple[Touch, ...]:
        """One for each kind of model."""
        vae, clip, vision = comfy.sd.VAE, comfy.sd.CLIP, comfy.clip_vision.ClipVisionModel
        coding = [(vae, name, functools.partial(self._coding, name)) for name in _CODING]
        encoding = [(clip, name, functools.partial(self._encoding, name)) for name in _ENCODING]
        node = host_nodes.NODE_CLASS_MAPPINGS.get("ImageUpscaleWithModel")
        upscaling = [(node, name, self._upscaling) for name in ("execute", "upscale") if node]
        tree = k_sampling.BatchedBrownianTree
        drawing: list[tuple[Any, str, Offer]] = [
            (k_sampling, "default_noise_sampler", noise.default_sampler),
            *((tree, "__init__", noise.tree), (tree, "__call__", noise.branch)),
        ]
        return (
            Touch(SAMPLING, "every sampler node is protected", [(comfy.samplers.CFGGuider, "sample", self._sampling)]),
            Touch(CODING, "VAEs are protected", coding),
            Touch(ENCODING, "text encoders are protected", encoding),
            Touch(VISION, "image encoders are protected", [(vision, "encode_image", self._vision)]),
            Touch(UPSCALING, "upscale models are protected", upscaling),
            Touch(NOISE, "noise is drawn where ComfyUI draws it", drawing),
        )

    def _sampling(self, stock: Callable[..., Any], guider: Any, *arguments: Any, **keywords: Any) -> Work | None:
        patcher = guider.model_patcher
        if placement_of(patcher) is not None or not served(SAMPLING, patcher, why_not_model(patcher)):
            return None

        def work() -> Any:
            placed = self._twins.of_model(patcher)
            with _model_of(guider, placed):
                return _staged("sample", placed, lambda: stock(guider, *arguments, **keywords))

        return work

    def _coding(self, name: str, stock: Callable[..., Any], vae: Any, *arguments: Any, **keywords: Any) -> Work | None:
        if isinstance(vae, PlacedVAE) or getattr(vae, "first_stage_model", None) is None:
            return None
        reason = why_not_object(vae, comfy.sd.VAE) or why_not(vae.patcher, vae.first_stage_model)
        if not served(CODING, vae.patcher, reason):
            return None

        def work() -> Any:
            placed = self._twins.of_vae(vae)
            method = getattr(placed, name)
            stage = name.removesuffix("_tiled")
            try:
                return _staged(stage, placed.patcher, lambda: method(*arguments, **keywords), placed)
            finally:
                if is_lost(vae.device):  # as its patcher, for ComfyUI's own way
                    vae.device = vae.patcher.load_device

        return work

    def _encoding(
        self, name: str, stock: Callable[..., Any], clip: Any, *arguments: Any, **keywords: Any
    ) -> Work | None:
        if isinstance(clip, PlacedCLIP):
            return None
        reason = why_not_object(clip, comfy.sd.CLIP) or why_not(clip.patcher, clip.cond_stage_model)
        if not served(ENCODING, clip.patcher, reason):
            return None
        return lambda: getattr(self._twins.of_clip(clip), name)(*arguments, **keywords)

    def _vision(self, stock: Callable[..., Any], vision: Any, *arguments: Any, **keywords: Any) -> Work | None:
        if isinstance(vision, PlacedClipVision):
            return None
        reason = why_not_object(vision, comfy.clip_vision.ClipVisionModel) or why_not(vision.patcher, vision.model)
        if not served(VISION, vision.patcher, reason):
            return None

        def work() -> Any:
            placed = self._twins.of_clip_vision(vision)
            return _staged("encode image", placed.patcher, lambda: placed.encode_image(*arguments, **keywords))

        return work

    def _upscaling(self, stock: Callable[..., Any], node: Any, upscale_model: Any, image: Any) -> Work | None:
        if isinstance(upscale_model, PlacedUpscaler):
            return None

        def work() -> Any:
            placed = PlacedUpscaler.of(upscale_model, self._twins.placement(default_device()))
            result, _ = run_stage("upscale", lambda: upscale(placed, image, AUTO, AUTO))
            if hasattr(model_management, "intermediate_dtype"):
                result = result.to(model_management.intermediate_dtype())
            return io.NodeOutput(result) if isinstance(node, type) else (result,)

        return work


def _staged(stage: str, patcher: Any, work: Callable[[], Any], vae: Any = None) -> Any:
    """Does a stage's work on a placed patcher, measured and reported as our own nodes' is."""

    def measured() -> Any:
        placement = placement_of(patcher)
        assert placement is not None
        decided(placement)
        answer = work()
        return answer, with_tiling(placement_after(patcher, placement), vae)

    answer, _ = run_stage(stage, measured)
    return answer


@contextlib.contextmanager
def _model_of(guider: Any, placed: Any) -> Iterator[None]:
    """Gives a guider another patcher for the block, and with it the options that belong to it."""
    patcher, options = guider.model_patcher, guider.model_options
    guider.model_patcher = placed
    guider.model_options = placed.model_options if options is patcher.model_options else _with_ours(options, placed)
    try:
        yield
    finally:
        guider.model_patcher, guider.model_options = patcher, options


def _with_ours(options: dict[str, Any], placed: Any) -> dict[str, Any]:
    """A guider's own options, with the attention of the placed model."""
    attention = placed.model_options.get("transformer_options", {}).get(OVERRIDE)
    if attention is None:
        return options
    return {**options, "transformer_options": {OVERRIDE: attention, **options.get("transformer_options", {})}}
