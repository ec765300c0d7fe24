"""Model files of random weights in the layouts that ComfyUI recognises, for demos, tests and benchmarks.

Key names and shapes come from the host's own model classes, built on the meta device, so that the files are
loaded by the real loaders. Weights are scaled by 1/sqrt(fan-in), which keeps activations finite.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.training import checkpoint

Shapes = dict[str, tuple[int, ...]]

_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_heads": 8,
    "use_spatial_transformer": True,
    "context_dim": 768,
    "legacy": False,
}
_UNET_TINY = {
    **_UNET,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 1),
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
}
# 1.2 GiB in fp32, nearly all of it where pictures are smallest: much memory, little work.
_UNET_DEEP = {**_UNET_TINY, "channel_mult": (1, 2), "transformer_depth_middle": 24}
_UNET_SD15 = {
    **_UNET,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4),
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
_UNET_SDXL = {
    **_UNET,
    "num_heads": -1,
    "num_head_channels": 64,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": (1, 2, 4),
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}


def _shapes(module: torch.nn.Module, prefix: str) -> Shapes:
    return {prefix + key: tuple(value.shape) for key, value in module.state_dict().items()}


def _unet(config: Mapping[str, Any], prefix: str = "model.diffusion_model.") -> Shapes:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return _shapes(UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init), prefix)


def _controlnet(config: Mapping[str, Any]) -> Shapes:
    import comfy.ops
    from comfy.cldm.cldm import ControlNet

    config = {key: value for key, value in config.items() if key not in ("out_channels", "transformer_depth_output")}
    return _shapes(ControlNet(**config, hint_channels=3, device="meta", operations=comfy.ops.disable_weight_init), "")


def _clip_l(prefix: str) -> Shapes:
    import comfy
    import comfy.ops
    from comfy.clip_model import CLIPTextModel

    config = json.loads((Path(comfy.__path__[0]) / "sd1_clip_config.json").read_text(encoding="utf-8"))
    shapes = _shapes(CLIPTextModel(config, torch.float16, "meta", comfy.ops.disable_weight_init), prefix)
    return {key: shape for key, shape in shapes.items() if not key.endswith("text_projection.weight")}


def _clip_g(prefix: str) -> Shapes:
    """OpenCLIP's text encoder ViT-bigG/14, as SDXL's checkpoints hold it."""
    width, inner = 1280, 5120
    shapes: Shapes = {
        "token_embedding.weight": (49408, width),
        "positional_embedding": (77, width),
        "text_projection": (width, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
    }
    layer = {
        **{f"{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")},
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (inner, width),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (width, inner),
        "mlp.c_proj.bias": (width,),
    }
    for index in range(32):
        shapes |= {f"transformer.resblocks.{index}.{key}": shape for key, shape in layer.items()}
    return {prefix + key: shape for key, shape in shapes.items()}


def _t5_base() -> Shapes:
    """The encoder of T5-base, Stable Audio's text encoder: the smallest that is no CLIP."""
    import comfy
    import comfy.ops
    from comfy.text_encoders.t5 import T5

    path = Path(comfy.__path__[0]) / "text_encoders" / "t5_config_base.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    return _shapes(T5(config, torch.float16, "meta", comfy.ops.disable_weight_init), "")


def _clip_vision(prefix: str = "") -> Shapes:
    import comfy
    import comfy.ops
    from comfy.clip_model import CLIPVisionModelProjection

    config = json.loads((Path(comfy.__path__[0]) / "clip_vision_config_vitl.json").read_text(encoding="utf-8"))
    return _shapes(CLIPVisionModelProjection(config, torch.float16, "meta", comfy.ops.disable_weight_init), prefix)


def _vae(prefix: str, latent_channels: int) -> Shapes:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = {
        "double_z": True,
        "z_channels": latent_channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.device("meta"):
        return _shapes(AutoencoderKL(ddconfig=config, embed_dim=latent_channels), prefix)


def _taesd(half: str) -> Shapes:
    """The encoder or decoder of SD1.5's tiny autoencoder."""
    import comfy.taesd.taesd as taesd

    with torch.device("meta"):
        return _shapes(taesd.Encoder(4) if half == "encoder" else taesd.Decoder(4), "")


def _sd3(depth: int) -> Shapes:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    context = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": depth * 64}}
    model = OpenAISignatureMMDITWrapper(
        in_channels=16,
        patch_size=2,
        out_channels=16,
        depth=depth,
        input_size=None,
        adm_in_channels=2048,
        context_embedder_config=context,
        num_patches=4096,
        pos_embed_max_size=64,
        pos_embed_scaling_factor=None,
        device="meta",
        operations=comfy.ops.disable_weight_init,
    )
    return _shapes(model, "model.diffusion_model.")


def _wan(depth: int = 2) -> Shapes:
    """A video transformer in Wan 2.1's layout; its heads have 128 channels at any width."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    operations = comfy.ops.disable_weight_init
    model = WanModel(dim=256, ffn_dim=512, num_heads=2, num_layers=depth, device="meta", operations=operations)
    return _shapes(model, "")


def _lora(config: Mapping[str, Any], rank: int = 4) -> Shapes:
    """A LoRA on the query projections and feed-forward layers of a UNet."""
    shapes: Shapes = {}
    for key, shape in _unet(config, "").items():
        if len(shape) == 2 and key.endswith((".to_q.weight", ".ff.net.2.weight")):
            name = "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
            shapes[f"{name}.lora_up.weight"] = (shape[0], rank)
            shapes[f"{name}.lora_down.weight"] = (rank, shape[1])
    return shapes


def _clip_lora(rank: int = 4) -> Shapes:
    """A LoRA on the query projections of the text encoder CLIP-L."""
    name, width = "lora_te_text_model_encoder_layers_{}_self_attn_q_proj", 768
    shapes: Shapes = {}
    for layer in range(12):
        shapes[f"{name.format(layer)}.lora_up.weight"] = (width, rank)
        shapes[f"{name.format(layer)}.lora_down.weight"] = (rank, width)
    return shapes


def _upscaler(features: int = 16, scale: int = 2) -> Shapes:
    """A small network in the layout that spandrel knows as Compact (SRVGGNet)."""
    shapes: Shapes = {"body.0.weight": (features, 3, 3, 3), "body.0.bias": (features,), "body.1.weight": (features,)}
    for index in (2, 4):
        shapes[f"body.{index}.weight"] = (features, features, 3, 3)
        shapes[f"body.{index}.bias"] = (features,)
        shapes[f"body.{index + 1}.weight"] = (features,)
    shapes["body.6.weight"] = (3 * scale**2, features, 3, 3)
    shapes["body.6.bias"] = (3 * scale**2,)
    return shapes


def _checkpoint(unet: Mapping[str, Any]) -> Shapes:
    clip = _clip_l("cond_stage_model.transformer.")
    return {**_unet(unet), **clip, **_vae("first_stage_model.", 4)}


def _sdxl() -> Shapes:
    clips = {**_clip_l("conditioner.embedders.0.transformer."), **_clip_g("conditioner.embedders.1.model.")}
    return {**_unet(_UNET_SDXL), **clips, **_vae("first_stage_model.", 4)}


def _sd3_checkpoint(depth: int) -> Shapes:
    """SD3's network, 64 channels wide for each layer, with one of its text encoders."""
    return {**_sd3(depth), **_clip_l("text_encoders.clip_l.transformer."), **_vae("first_stage_model.", 16)}


# Layout name -> (sub-folder of ComfyUI's models folder, its keys and shapes).
LAYOUTS: dict[str, tuple[str, Callable[[], Shapes]]] = {
    "sd15-tiny": ("checkpoints", lambda: _checkpoint(_UNET_TINY)),
    "sd15": ("checkpoints", lambda: _checkpoint(_UNET_SD15)),
    "sdxl": ("checkpoints", _sdxl),
    "sd3-tiny": ("checkpoints", lambda: _sd3_checkpoint(2)),
    "sd3-small": ("checkpoints", lambda: _sd3_checkpoint(16)),
    "sd15-tiny-unet": ("diffusion_models", lambda: _unet(_UNET_TINY)),
    "sd15-deep-unet": ("diffusion_models", lambda: _unet(_UNET_DEEP)),
    "wan-tiny": ("diffusion_models", _wan),
    "sdxl-unet": ("diffusion_models", lambda: _unet(_UNET_SDXL)),
    "clip-l": ("text_encoders", lambda: _clip_l("")),
    "t5-base": ("text_encoders", _t5_base),
    "clip-vision-l": ("clip_vision", _clip_vision),
    "vae-sd15": ("vae", lambda: _vae("", 4)),
    "taesd_encoder": ("vae_approx", lambda: _taesd("encoder")),
    "taesd_decoder": ("vae_approx", lambda: _taesd("decoder")),
    "lora-sd15-tiny": ("loras", lambda: _lora(_UNET_TINY)),
    "lora-clip-l": ("loras", _clip_lora),
    "controlnet-sd15-tiny": ("controlnet", lambda: _controlnet(_UNET_TINY)),
    "upscaler-2x": ("upscale_models", _upscaler),
    checkpoint.NAME: ("checkpoints", lambda: _clip_l("")),  # what was not trained of it
}


def random_weights(shapes: Shapes, *, seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random tensors of the given shapes: norm weights 1, biases 0.01-sized, others 1/sqrt(fan-in)-sized."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in shapes.items():
        if "position_ids" in key:
            weights[key] = torch.arange(shape[-1]).reshape(shape)
            continue
        values = torch.randn(shape, generator=generator)
        if len(shape) < 2:
            values = values * 0.01 + (1.0 if key.endswith("weight") else 0.0)
        else:
            values *= (values[0].numel() or 1) ** -0.5
        weights[key] = values.to(dtype)
    return weights


def write_model(layout: str, models: Path, *, seed: int = 0, dtype: torch.dtype = torch.float16) -> Path:
    """Writes `<models>/<folder>/<layout>.safetensors` unless it is there already, and returns its path.

    Raises:
        KeyError: there is no such layout.
    """
    folder, shapes = LAYOUTS[layout]
    path = models / folder / f"{layout}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        trained = layout == checkpoint.NAME
        weights = checkpoint.checkpoint(shapes()) if trained else random_weights(shapes(), seed=seed, dtype=dtype)
        save_file(weights, partial)
        partial.replace(path)
    return path


def main() -> None:
    """`python -m tests.harness.synthetic MODELS LAYOUT...`, run with ComfyUI on the import path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="ComfyUI's models folder")
    parser.add_argument("layouts", nargs="+", choices=sorted(LAYOUTS))
    arguments = parser.parse_args()
    from comfy.cli_args import args

    args.cpu = True  # only shapes are needed: the host must not ask for a GPU when it is imported
    for layout in arguments.layouts:
        write_model(layout, arguments.models)


if __name__ == "__main__":
    main()
