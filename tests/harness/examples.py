"""The graphs of ComfyUI's template browser, in the API's format, and the model files that they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .workflows import Workflow, node, text_to_image, with_our_nodes

PROMPT = "a lighthouse on a cliff at dusk, warm light in its window, storm clouds, detailed"


@dataclasses.dataclass(frozen=True)
class Example:
    """One entry of the template browser."""

    graph: Workflow
    says: str
    """What it shows, for its note."""
    models: tuple[str, ...]
    """Addresses of the files; the last folder of ComfyUI's layout before "@"."""
    needs: str = ""
    """Another pack."""

    def files(self) -> list[dict[str, str]]:
        """What the editor offers to fetch where it is missing: name, url and models folder."""
        split = (entry.partition("@") for entry in self.models)
        return [{"name": url.rpartition("/")[2], "url": url, "directory": folder} for folder, _, url in split]

    def note(self) -> str:
        """What stands beside the graph, in Markdown."""
        files = [f"- `models/{file['directory']}`: [{file['name']}]({file['url']})" for file in self.files()]
        return "\n".join([self.says, "", *([self.needs, ""] if self.needs else []), "Models:", *files])


def _sdxl() -> Workflow:
    graph = with_our_nodes(text_to_image("sd_xl_base_1.0.safetensors", size=1024, steps=25))
    graph["checkpoint"]["inputs"]["resident"] = "auto"
    graph["positive"]["inputs"]["text"] = PROMPT
    graph["save"]["inputs"]["filename_prefix"] = "xpu-nodes"
    return graph


def _two_cards() -> Workflow:
    """The network on one card, text encoder and VAE on the other."""
    graph = _sdxl()
    graph["checkpoint"]["inputs"]["device"] = "xpu:0"
    graph["text encoder"] = node("XPUPlace", anything=["checkpoint", 1], device="xpu:1", **_AUTO)
    graph["vae"] = node("XPUPlace", anything=["checkpoint", 2], device="xpu:1", **_AUTO)
    for name in ("positive", "negative"):
        graph[name]["inputs"]["clip"] = ["text encoder", 0]
    graph["decode"]["inputs"]["vae"] = ["vae", 0]
    return graph


_AUTO = {"precision": "auto", "resident": "auto"}
_PLACED = {"device": "auto", "precision": "auto"}
_FURTHER = ("clip_name2", "clip_name3", "clip_name4")


def _files(network: dict[str, Any], clip: dict[str, Any], vae: str) -> Workflow:
    """Loaders of separate files, the network's given, and the nodes that a prompt to a distilled model takes."""
    return {
        "network": network,
        "clip": node("XPULoadCLIP", **{**dict.fromkeys(_FURTHER, "none"), **clip, **_PLACED}),
        "vae": node("XPULoadVAE", vae_name=vae, **_PLACED),
        "positive": node("CLIPTextEncode", clip=["clip", 0], text=PROMPT),
    }


def _sampled(graph: Workflow, model: str, negative: str, latent: str, **choices: Any) -> Workflow:
    graph["sampler"] = node(
        "XPUKSampler",
        model=[model, 0],
        positive=["positive", 0],
        negative=[negative, 0],
        latent_image=[latent, 0],
        **{"seed": 7, "denoise": 1.0, **choices, **_PLACED},
    )
    graph["decode"] = node("XPUVAEDecode", samples=["sampler", 0], vae=["vae", 0], **_PLACED)
    return graph


def _picture(graph: Workflow, model: str, **choices: Any) -> Workflow:
    """A picture of a model that needs no negative prompt."""
    graph["nothing"] = node("ConditioningZeroOut", conditioning=["positive", 0])
    graph["latent"] = node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1)
    _sampled(graph, model, "nothing", "latent", cfg=1.0, scheduler="simple", **choices)
    graph["save"] = node("SaveImage", images=["decode", 0], filename_prefix="xpu-nodes")
    return graph


def _z_image() -> Workflow:
    name = "z_image_turbo_bf16.safetensors"
    network = node("XPULoadDiffusionModel", unet_name=name, weight_dtype="default", device="auto", **_AUTO)
    graph = _files(network, {"clip_name": "qwen_3_4b.safetensors", "type": "lumina2"}, "ae.safetensors")
    graph["shifted"] = node("ModelSamplingAuraFlow", model=["network", 0], shift=3.0)
    return _picture(graph, "shifted", steps=9, sampler_name="res_multistep")


def _gguf() -> Workflow:
    clip = {"clip_name": "t5xxl_fp8_e4m3fn.safetensors", "clip_name2": "clip_l.safetensors", "type": "flux"}
    graph = _files(node("UnetLoaderGGUF", unet_name="flux1-schnell-Q4_K_S.gguf"), clip, "ae.safetensors")
    graph["placed"] = node("XPUPlaceModel", model=["network", 0], device="auto", **_AUTO)
    return _picture(graph, "placed", steps=4, sampler_name="euler")


def _video() -> Workflow:
    name = "wan2.2_ti2v_5B_fp16.safetensors"
    network = node("XPULoadDiffusionModel", unet_name=name, weight_dtype="default", device="auto", **_AUTO)
    clip = {"clip_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "type": "wan"}
    graph = _files(network, clip, "wan2.2_vae.safetensors")
    graph["negative"] = node("CLIPTextEncode", clip=["clip", 0], text="blurry, still picture, watermark")
    graph["shifted"] = node("ModelSamplingSD3", model=["network", 0], shift=8.0)
    graph["latent"] = node("Wan22ImageToVideoLatent", vae=["vae", 0], width=832, height=480, length=49, batch_size=1)
    _sampled(graph, "shifted", "negative", "latent", steps=20, cfg=5.0, sampler_name="uni_pc", scheduler="simple")
    graph["video"] = node("CreateVideo", images=["decode", 0], fps=24.0)
    graph["save"] = node("SaveVideo", video=["video", 0], filename_prefix="xpu-nodes", format="auto", codec="auto")
    return graph


_HUB = "https://huggingface.co"
_SDXL = f"checkpoints@{_HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors"
_Z = f"{_HUB}/Comfy-Org/z_image_turbo/resolve/main/split_files"
_VAE = f"vae@{_Z}/vae/ae.safetensors"
_ENCODERS = f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main"
_WAN = f"{_HUB}/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
_UMT5 = f"{_HUB}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/text_encoders"

EXAMPLES = {
    "sdxl": Example(
        _sdxl(),
        "A picture with SDXL. What does not fit into the card's memory is copied there while it computes; running out "
        "of memory, a black picture or a lost card end in the picture.",
        (_SDXL,),
    ),
    "two_cards": Example(
        _two_cards(),
        "SDXL on `xpu:0`, its text encoder and VAE on `xpu:1`: both stay loaded. On a machine with one card all of it "
        "runs there, and the nodes say so.",
        (_SDXL,),
    ),
    "z_image_turbo": Example(
        _z_image(),
        "A picture with Z-Image Turbo, from separate files. `resident` says how much of the network stays on the card.",
        (
            f"diffusion_models@{_Z}/diffusion_models/z_image_turbo_bf16.safetensors",
            f"text_encoders@{_Z}/text_encoders/qwen_3_4b.safetensors",
            _VAE,
        ),
    ),
    "flux_gguf": Example(
        _gguf(),
        "FLUX.1 schnell from a GGUF file: its own loader, then XPU Place Model.",
        (
            f"unet@{_HUB}/city96/FLUX.1-schnell-gguf/resolve/main/flux1-schnell-Q4_K_S.gguf",
            f"text_encoders@{_ENCODERS}/t5xxl_fp8_e4m3fn.safetensors",
            f"text_encoders@{_ENCODERS}/clip_l.safetensors",
            _VAE,
        ),
        needs="Needs the pack [ComfyUI-GGUF](https://github.com/city96/ComfyUI-GGUF).",
    ),
    "wan_video": Example(
        _video(),
        "Two seconds of video with Wan 2.2 (5B). The decoder takes tiles in space and time where memory is short.",
        (
            f"diffusion_models@{_WAN}/diffusion_models/wan2.2_ti2v_5B_fp16.safetensors",
            f"text_encoders@{_UMT5}/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
            f"vae@{_WAN}/vae/wan2.2_vae.safetensors",
        ),
    ),
}
"""By the name of their files in example_workflows."""


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """Nodes of `whole_graph` as one."""

    description: str
    devices: Mapping[str, str]
    """The types of the nodes inside -> what the device of each is called outside."""


BLUEPRINTS = {
    "XPU Place on two cards": Blueprint(
        "Places MODEL on one card, CLIP and VAE on another.",
        {"XPUPlaceModel": "device of MODEL", "XPUPlaceCLIP": "device of CLIP", "XPUPlaceVAE": "device of VAE"},
    ),
    "XPU Decode and upscale": Blueprint(
        "Decodes a latent and enlarges the picture, each on the device that is chosen for it.",
        {"XPUVAEDecode": "device of VAE", "XPUUpscaleImage": "device of UPSCALE_MODEL"},
    ),
}
"""By name."""


def whole_graph() -> Workflow:
    """A graph around every blueprint: what they are connected to gives them their inputs and outputs."""
    graph = _sdxl()
    places = {
        "model": ("XPUPlaceModel", 0, "xpu:0"),
        "clip": ("XPUPlaceCLIP", 1, "xpu:1"),
        "vae": ("XPUPlaceVAE", 2, "xpu:1"),
    }
    for name, (kind, output, device) in places.items():
        resident = {"resident": "auto"} if name == "model" else {}
        given = {name: ["checkpoint", output]}
        graph[f"place {name}"] = node(kind, **given, device=device, precision="auto", **resident)
    graph["sampler"]["inputs"]["model"] = ["place model", 0]
    for name in ("positive", "negative"):
        graph[name]["inputs"]["clip"] = ["place clip", 0]
    graph["decode"]["inputs"]["vae"] = ["place vae", 0]
    graph["upscaler"] = node("XPULoadUpscaleModel", model_name="4x-UltraSharp.pth", **_PLACED)
    graph["upscaled"] = node("XPUUpscaleImage", upscale_model=["upscaler", 0], image=["decode", 0], **_PLACED)
    graph["save"]["inputs"]["images"] = ["upscaled", 0]
    return graph
