"""Where objects go that were placed before, and what is reported of what ComfyUI does not follow; see worker.py."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import comfy.clip_vision
import comfy.controlnet
import comfy.model_management as model_management
import comfy.sd
import folder_paths
import nodes
import torch
from comfy.cli_args import args
from comfy.controlnet import ControlLora, T2IAdapter
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from spandrel import ModelLoader

from tests.harness.models import MODELS
from tests.harness.synthetic import LAYOUTS, random_weights
from xpu_utils.host import choices, hooks, streaming
from xpu_utils.host.attention import VAE_HOOK, use_vae_attention
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loading
from xpu_utils.host.recovery.moving import cpu
from xpu_utils.host.recovery.rungs import placement_after
from xpu_utils.host.recovery.weights import make_ready, source_of
from xpu_utils.host.running import coding, sampling
from xpu_utils.host.running.clip import place_clip
from xpu_utils.host.running.clip_vision import place_clip_vision
from xpu_utils.host.running.controlnet import BRIDGE, place_controlnet
from xpu_utils.host.running.place import place
from xpu_utils.host.running.upscaling import PlacedUpscaler, upscale
from xpu_utils.host.target import unload
from xpu_utils.placement import Placement

CONTROLNET = "controlnet-sd15-tiny.safetensors"

for folder in ("diffusion_models", "text_encoders", "vae", "controlnet", "clip_vision"):
    folder_paths.add_model_folder_path(folder, str(MODELS / folder))


def _told(placement: Placement) -> dict[str, str]:
    return {
        "requested": placement.requested,
        "device": placement.device.id,
        "precision": placement.precision,
        "resident": placement.resident,
        "reason": placement.reason,
    }


def case_a_vae_without_attention() -> Any:
    """What the hook list says of attention in VAEs before and after one was placed that has none; runs first."""
    use_vae_attention(ModelPatcher(torch.nn.Sequential(), torch.device("xpu:0"), torch.device("cpu")))
    return [str(hook) for hook in hooks.listed() if hook.name == VAE_HOOK]


class VAELoader(io.ComfyNode):
    """ComfyUI's, as it would be as a V3 node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VAELoader",
            inputs=[io.Combo.Input("vae_name", options=nodes.VAELoader.INPUT_TYPES()["required"]["vae_name"][0])],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, vae_name: str) -> io.NodeOutput:
        return io.NodeOutput(*nodes.VAELoader().load_vae(vae_name))


def case_a_v3_loader_of_the_host() -> Any:
    stock = nodes.NODE_CLASS_MAPPINGS["VAELoader"]
    offered = choices.vae_names()
    nodes.NODE_CLASS_MAPPINGS["VAELoader"] = VAELoader
    try:
        vae, _ = loading.load_vae("vae-sd15.safetensors", placement_for("xpu:1", "fp32"))
        return {"same": choices.vae_names() == offered, "loaded": str(vae.device)}
    finally:
        nodes.NODE_CLASS_MAPPINGS["VAELoader"] = stock


def case_a_share_that_is_not_followed() -> Any:
    """What is noted of a resident share on the CPU, and on a device where streaming is switched off."""
    name, found = "sd15-tiny-unet.safetensors", {}
    for device, left_out in (("cpu", ""), ("xpu:0", streaming.HOOK), ("xpu:1", "")):
        asked = dataclasses.replace(placement_for(device, "fp16"), resident="45%")
        os.environ[hooks.DISABLE_VARIABLE] = left_out
        try:
            found[device] = loading.load_diffusion_model(name, "default", asked)[1].notes[1:]  # after the outlook
        finally:
            del os.environ[hooks.DISABLE_VARIABLE]
    return found


def case_conditions_of_a_step() -> Any:
    """How many go through the model at once, where both together take 0.9 times what is free by the host's estimate."""
    found = {}
    for resident in ("45%", "all"):
        model, _ = loading.load_diffusion_model(
            "sd15-tiny-unet.safetensors", "default", placement_for("xpu:0", "fp16", resident)
        )
        batches: list[int] = []
        model.model.diffusion_model.register_forward_pre_hook(lambda _, given, into=batches: into.append(len(given[0])))

        def estimate(shape: list[int], **_: Any) -> float:
            return 0.45 * shape[0] * model_management.get_free_memory(torch.device("xpu:0"))

        model.model.memory_required = estimate
        conditions = [[[torch.randn(1, 8, 768), {}]] for _ in range(2)]
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        nodes.common_ksampler(model, 0, 2, 7.0, "euler", "normal", *conditions, latent)
        found[resident] = {"batches": batches, "restored": model.model.memory_required is estimate}
        unload(model)
    return found


def case_a_model_in_another_precision() -> Any:
    placement = placement_for("xpu:1", "fp16", "45%")
    model, _ = loading.load_diffusion_model("sd15-tiny-unet.safetensors", "default", placement)
    return {
        "untouched": _told(sampling.placed_model(model, "auto", "auto")[1]),
        "precision": _told(sampling.placed_model(model, "auto", "fp32")[1]),
        "device": _told(sampling.placed_model(model, "xpu:0", "auto")[1]),
        "load_device": str(sampling.placed_model(model, "auto", "fp32")[0].load_device),
    }


def case_a_host_copy() -> Any:
    """Whether a model that nothing says how to read again has a copy on the host: with room, without, with it again."""
    patcher = ModelPatcher(torch.nn.Linear(8, 8), torch.device("xpu:0"), torch.device("cpu"))
    stock, kept = model_management.get_free_memory, []
    for free_bytes in (1 << 30, 1, 1 << 30):
        model_management.get_free_memory = lambda *_, free_bytes=free_bytes: free_bytes
        try:
            make_ready(patcher)
        finally:
            model_management.get_free_memory = stock
        kept.append(source_of(patcher) is not None)
    return kept


def case_a_vae_in_another_precision() -> Any:
    vae, _ = loading.load_vae("vae-sd15.safetensors", placement_for("xpu:1", "fp32"))
    return _told(coding.placed_vae(vae, "auto", "bf16")[1])


def case_a_vae_with_cpu_vae() -> Any:
    args.cpu_vae = True
    try:
        led, placement = loading.load_vae("vae-sd15.safetensors", placement_for("auto", "fp32"))
        return {
            "auto": {**_told(placement), "computes on": str(led.patcher.load_device)},
            "again": _told(coding.placed_vae(led, "auto", "auto")[1]),
            "xpu:1": coding.placed_vae(led, "xpu:1", "auto")[1].notes,
        }
    finally:
        args.cpu_vae = False


def case_an_upscaler_in_another_precision() -> Any:
    weights = random_weights(LAYOUTS["upscaler-2x"][1](), seed=0, dtype=torch.float32)
    placed = PlacedUpscaler(ModelLoader().load_from_state_dict(weights).eval(), placement_for("xpu:1", "fp32"))
    return _told(upscale(placed, torch.zeros(1, 32, 32, 3), "auto", "bf16")[1])


def case_a_text_encoder_in_bf16() -> Any:
    return _told(loading.load_clip(["clip-l.safetensors"], "stable_diffusion", placement_for("xpu:0", "bf16"))[1])


def case_a_clip_vision_model_in_fp16() -> Any:
    return _told(loading.load_clip_vision("clip-vision-l.safetensors", placement_for("xpu:0", "fp16"))[1])


class PackCLIP(comfy.sd.CLIP):
    """As another pack extends it: knows how often it encoded."""

    def encode_from_tokens(self, *arguments: Any, **keywords: Any) -> Any:
        self.encoded = getattr(self, "encoded", 0) + 1
        return super().encode_from_tokens(*arguments, **keywords)


class PackClipVision(comfy.clip_vision.ClipVisionModel):
    def encode_image(self, *arguments: Any, **keywords: Any) -> Any:
        self.encoded = getattr(self, "encoded", 0) + 1
        return super().encode_image(*arguments, **keywords)


def case_another_pack_s_clip() -> Any:
    clip = comfy.sd.load_clip([str(MODELS / "text_encoders" / "clip-l.safetensors")])
    clip.__class__ = PackCLIP
    first, _ = place_clip(clip, placement_for("xpu:1", "fp32"))
    placed, placement = place_clip(first, placement_for("xpu:0", "fp32"))
    placed.set_tokenizer_option("min_length", 1)
    placed.encode_from_tokens(placed.tokenize("a cat"))
    return {**_kept(placed, PackCLIP, placement), "options_of_the_original": clip.tokenizer_options}


def case_another_pack_s_clip_vision() -> Any:
    vision = comfy.clip_vision.load(str(MODELS / "clip_vision" / "clip-vision-l.safetensors"))
    vision.__class__ = PackClipVision
    placed, placement = place_clip_vision(vision, placement_for("xpu:0", "fp32"))
    placed.encode_image(torch.zeros(1, 32, 32, 3))
    return _kept(placed, PackClipVision, placement)


def _kept(placed: Any, kind: type, placement: Placement) -> dict[str, Any]:
    """Whether a placed object is still of the pack's kind, worked as that does, and was watched by us."""
    ran = placement_after(placed.patcher, dataclasses.replace(placement, device=cpu()))
    return {"kind": isinstance(placed, kind), "encoded": placed.encoded, "ran_on": ran.device.id}


class _Encoder:
    """As ComfyUI's audio encoders are."""

    def __init__(self) -> None:
        self.patcher = ModelPatcher(torch.nn.Linear(8, 8), torch.device("xpu:0"), torch.device("cpu"))


class AudioVAE:
    """As LTX's is in ComfyUI 0.18."""

    def __init__(self) -> None:
        self.device_manager = _Encoder()


def case_whatever_a_loader_made() -> Any:
    """Where the place node for any object puts what is not loaded by other cases' loaders, and what it says."""
    weights = random_weights(LAYOUTS["upscaler-2x"][1](), seed=0, dtype=torch.float32)
    things = {
        "MODEL": comfy.sd.load_diffusion_model(str(MODELS / "diffusion_models" / "sd15-tiny-unet.safetensors")),
        "VAE": loading.load_vae("vae-sd15.safetensors", placement_for("xpu:0", "fp32"))[0],
        "CONTROL_NET": comfy.controlnet.load_controlnet(str(MODELS / "controlnet" / CONTROLNET)),
        "UPSCALE_MODEL": ModelLoader().load_from_state_dict(weights).eval(),
        "MODEL_PATCH": ModelPatcher(torch.nn.Linear(8, 8), torch.device("xpu:0"), torch.device("cpu")),
        "AUDIO_ENCODER": _Encoder(),
        "AUDIO_VAE": AudioVAE(),
    }
    found = {}
    for kind, thing in things.items():
        placed, placement = place(thing, placement_for("xpu:1", "auto"))
        owner = getattr(placed, "device_manager", placed)
        patcher = getattr(owner, "control_model_wrapped", getattr(owner, "patcher", owner))
        found[kind] = [str(patcher.load_device), placement.device.id, placement.reason]
    return found


def case_a_t2i_adapter() -> Any:
    adapter = T2IAdapter(torch.nn.Identity(), 3, 8, "nearest-exact")
    return _told(place_controlnet(adapter, placement_for("xpu:1", "fp16"))[1])


def case_a_control_lora() -> Any:
    return _told(place_controlnet(ControlLora({}), placement_for("xpu:1", "fp16"))[1])


def case_an_audio_vae_with_a_manager_of_its_own() -> Any:
    try:
        coding.placed_vae(AudioVAE(), "xpu:1", "auto")
    except ValueError as error:
        return str(error)
    return "placed"


def case_a_controlnet_on_another_device_than_its_inputs() -> Any:
    control, _ = loading.load_controlnet(CONTROLNET, placement_for("xpu:1", "fp32"))
    module, device = control.control_model, torch.device("xpu:0")
    model_management.load_models_gpu(control.get_models())
    outputs = module(
        x=torch.zeros(1, 4, 8, 8, device=device),
        hint=torch.zeros(1, 3, 64, 64, device=device),
        timesteps=torch.zeros(1, device=device),
        context=torch.zeros(1, 77, 768, device=device),
    )
    weights = next(module.parameters()).device
    unload(control.control_model_wrapped)
    return {
        "weights": str(weights),
        "outputs": sorted({str(output.device) for group in outputs.values() for output in group}),
        "after": getattr(module.forward, "__func__", None) is type(module).forward,
        "hook": [str(hook) for hook in hooks.hooks() if hook.name == BRIDGE],
    }


def case_a_controlnet_without_the_bridge() -> Any:
    os.environ[hooks.DISABLE_VARIABLE] = BRIDGE
    try:
        control, placement = loading.load_controlnet(CONTROLNET, placement_for("xpu:1", "fp32"))
    finally:
        del os.environ[hooks.DISABLE_VARIABLE]
    return {**_told(placement), "patches": sorted(control.control_model_wrapped.object_patches)}
