"""The graphs whose results must be the same from stock nodes and from ours."""

from __future__ import annotations

from tests.harness.workflows import Workflow, node, text_to_image


def sd15() -> Workflow:
    return text_to_image()


def sd3() -> Workflow:
    return text_to_image("sd3-tiny.safetensors", latent="EmptySD3LatentImage")


def lora() -> Workflow:
    graph = text_to_image()
    graph["lora"] = node(
        "LoraLoader",
        model=["checkpoint", 0],
        clip=["checkpoint", 1],
        lora_name="lora-sd15-tiny.safetensors",
        strength_model=1.0,
        strength_clip=1.0,
    )
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    return graph


def lora_on_both() -> Workflow:
    """The LoRA on the model, and one that changes the text encoder."""
    graph = lora()
    graph["clip-lora"] = node(
        "LoraLoader",
        model=["lora", 0],
        clip=["lora", 1],
        lora_name="lora-clip-l.safetensors",
        strength_model=1.0,
        strength_clip=1.0,
    )
    graph["sampler"]["inputs"]["model"] = ["clip-lora", 0]
    for name in ("positive", "negative"):
        graph[name]["inputs"]["clip"] = ["clip-lora", 1]
    return graph


def controlnet() -> Workflow:
    graph = text_to_image()
    graph["control"] = node("ControlNetLoader", control_net_name="controlnet-sd15-tiny.safetensors")
    graph["hint"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0x3366CC)
    graph["applied"] = node(
        "ControlNetApplyAdvanced",
        positive=["positive", 0],
        negative=["negative", 0],
        control_net=["control", 0],
        image=["hint", 0],
        strength=0.8,
        start_percent=0.0,
        end_percent=1.0,
    )
    graph["sampler"]["inputs"].update(positive=["applied", 0], negative=["applied", 1])
    return graph


def image_to_image() -> Workflow:
    graph = text_to_image()
    graph["picture"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0x884422)
    graph["encode"] = node("VAEEncode", pixels=["picture", 0], vae=["checkpoint", 2])
    graph["sampler"]["inputs"].update(latent_image=["encode", 0], denoise=0.7)
    return graph


def image_to_image_with_mask() -> Workflow:
    graph = image_to_image()
    graph["solid"] = node("SolidMask", value=1.0, width=64, height=64)
    graph["mask"] = node("FeatherMask", mask=["solid", 0], left=16, top=16, right=16, bottom=16)
    graph["masked"] = node("SetLatentNoiseMask", samples=["encode", 0], mask=["mask", 0])
    graph["sampler"]["inputs"]["latent_image"] = ["masked", 0]
    return graph


def separate_files_and_advanced_sampler(*, weight_dtype: str = "default") -> Workflow:
    graph = text_to_image()
    del graph["checkpoint"]
    graph["unet"] = node("UNETLoader", unet_name="sd15-tiny-unet.safetensors", weight_dtype=weight_dtype)
    graph["clip"] = node("CLIPLoader", clip_name="clip-l.safetensors", type="stable_diffusion")
    graph["vae"] = node("VAELoader", vae_name="vae-sd15.safetensors")
    for name in ("positive", "negative"):
        graph[name]["inputs"]["clip"] = ["clip", 0]
    graph["decode"]["inputs"]["vae"] = ["vae", 0]
    inputs = graph["sampler"]["inputs"]
    del inputs["denoise"]
    inputs["noise_seed"] = inputs.pop("seed")
    inputs.update(
        model=["unet", 0],
        add_noise="enable",
        steps=4,
        start_at_step=1,
        end_at_step=3,
        return_with_leftover_noise="enable",
    )
    graph["sampler"]["class_type"] = "KSamplerAdvanced"
    return graph


def fp8_weights() -> Workflow:
    return separate_files_and_advanced_sampler(weight_dtype="fp8_e4m3fn")


def upscaled() -> Workflow:
    graph = text_to_image()
    graph["upscaler"] = node("UpscaleModelLoader", model_name="upscaler-2x.safetensors")
    graph["upscaled"] = node("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=["decode", 0])
    graph["save"]["inputs"]["images"] = ["upscaled", 0]
    return graph


GRAPHS = (
    *(sd15, sd3, lora, lora_on_both, controlnet, image_to_image, image_to_image_with_mask),
    *(separate_files_and_advanced_sampler, fp8_weights, upscaled),
)


def custom_sampler(workflow: Workflow, *, placed: bool) -> Workflow:
    """A text-to-image graph sampled by SamplerCustomAdvanced, of stock nodes or with our place nodes in between."""
    graph = {name: entry for name, entry in workflow.items() if name != "sampler"}
    model, clip, vae = ["checkpoint", 0], ["checkpoint", 1], ["checkpoint", 2]
    if placed:
        choice = {"device": "cpu", "precision": "fp32"}
        graph["place-model"] = node("XPUPlaceModel", model=model, **choice)
        graph["place-clip"] = node("XPUPlaceCLIP", clip=clip, **choice)
        graph["place-vae"] = node("XPUPlaceVAE", vae=vae, **choice)
        model, clip, vae = ["place-model", 0], ["place-clip", 0], ["place-vae", 0]
    for name in ("positive", "negative"):
        graph[name] = node("CLIPTextEncode", text=graph[name]["inputs"]["text"], clip=clip)
    graph["guider"] = node("CFGGuider", model=model, positive=["positive", 0], negative=["negative", 0], cfg=5.0)
    graph["noise"] = node("RandomNoise", noise_seed=11)
    graph["solver"] = node("KSamplerSelect", sampler_name="dpmpp_2m")
    graph["sigmas"] = node("BasicScheduler", model=model, scheduler="karras", steps=3, denoise=1.0)
    graph["sampler"] = node(
        "SamplerCustomAdvanced",
        noise=["noise", 0],
        guider=["guider", 0],
        sampler=["solver", 0],
        sigmas=["sigmas", 0],
        latent_image=["latent", 0],
    )
    graph["decode"] = node("VAEDecode", samples=["sampler", 0], vae=vae)
    return graph
