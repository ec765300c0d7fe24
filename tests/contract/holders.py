"""What our code cannot tell by itself: which names hold which objects of the host. The one list kept by hand.

A parameter's annotation goes before this list; one that is no class of the host, `Any` apart, keeps it away.
"""

from __future__ import annotations

from collections.abc import Mapping

PATCHER = "comfy.model_patcher.ModelPatcher()"

NAMES: Mapping[str, str] = {
    "patcher": PATCHER,
    "model_patcher": PATCHER,
    "control_model_wrapped": PATCHER,
    "streamed": PATCHER,
    "clip": "comfy.sd.CLIP()",
    "vae": "comfy.sd.VAE()",
    "vision": "comfy.clip_vision.ClipVisionModel()",
    "control": "comfy.controlnet.ControlNet()",
    "guider": "comfy.samplers.CFGGuider()",
    "loaded": "comfy.model_management.LoadedModel()",
    "previewer": "latent_preview.LatentPreviewer()",
}
"""Variables, parameters and attributes, without underscores before them, in files about the host."""

VARIABLES: Mapping[str, str] = {"model": PATCHER}
"""Variables and parameters only: a MODEL. The attribute `model` is the module inside a patcher."""

MODEL = "comfy.model_base.BaseModel()"

EXCEPTIONS: Mapping[str, Mapping[str, str]] = {
    "_calc_cond_batch": {"model": MODEL},
    "_reckoning": {"model": MODEL},
    "build": {"model": MODEL},
    "conditions_together": {"model": MODEL},
    "decode": {"placed": "comfy.sd.VAE()"},
    "encode": {"placed": "comfy.sd.VAE()"},
    "one_condition_a_batch": {"model": MODEL},
    "moved": {"value": "comfy.conds.CONDRegular()"},
    "place_controlnet": {"model": "comfy.cldm.cldm.ControlNet()"},
    "upscale": {"model": ""},
    "_supported": {"model": ""},
    "_prepared": {"model": ""},
    "PlacedUpscaler.__init__": {"model": ""},
    "PlacedUpscaler.of": {"model": ""},
    "_progress": {"model": "comfy.ldm.models.autoencoder.AutoencodingEngine()"},
}
"""Function -> names in it that hold something else, whatever is known of them; empty for no object of the host."""

ATTRIBUTES: Mapping[str, str] = {
    "comfy.ldm.modules.diffusionmodules.model.AttnBlock.optimized_attention": (
        "comfy.ldm.modules.diffusionmodules.model.pytorch_attention"
    ),
    "comfy.model_patcher.ModelPatcher.model": MODEL,
    "comfy.model_patcher.ModelPatcher.clone()": PATCHER,
    "comfy.model_management.LoadedModel.model": PATCHER,
    "comfy.model_management.current_loaded_models[]": "comfy.model_management.LoadedModel()",
    "comfy.samplers.CFGGuider.model_patcher": PATCHER,
    "comfy.sd.CLIP.patcher": PATCHER,
    "comfy.sd.CLIP.clone()": "comfy.sd.CLIP()",
    "comfy.sd.VAE.patcher": PATCHER,
    "comfy.clip_vision.ClipVisionModel.patcher": PATCHER,
    "comfy.controlnet.ControlNet.control_model_wrapped": PATCHER,
    "comfy.controlnet.ControlNet.copy()": "comfy.controlnet.ControlNet()",
    "comfy.sd1_clip.SDClipModel.transformer": "comfy.clip_model.CLIPTextModel()",
    "server.PromptServer.instance": "server.PromptServer()",
}
"""What attributes and results of the host's objects are."""

MIXED_INTO: Mapping[str, str] = {"StreamingPatcher": "comfy.model_patcher.ModelPatcher"}
"""Classes of ours that get a class of the host as their base while ComfyUI runs."""

_ATTENTION = "comfy.ldm.modules.attention.attention_pytorch"
_ENGINE = "comfy.ldm.models.autoencoder.AutoencodingEngine()"

STANDS_IN: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "PlacedAttention.__call__": (2, (_ATTENTION,)),  # itself, and the host's function
    "counted": (0, (f"{_ENGINE}.encode", f"{_ENGINE}.decode")),
}
"""Function of ours -> how many arguments of its own come first, and what of the host it stands in for."""
