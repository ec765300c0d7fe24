"""Families of VAEs: what a file of each is recognised by, and the sizes at which the host is to make it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .family import SEED, fill, marked
from .shrinking import Sizes, shrunk, unread
from .subject import Subject

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Vae:
    """One way in which `comfy.sd.VAE` makes a network."""

    name: str
    kind: str
    """The network's class as `comfy.sd.VAE` writes it; for one that is put together of two, the decoder's."""
    keys: Mapping[str, Shape]
    """What a file is recognised by."""
    sizes: Sizes = dataclasses.field(default_factory=dict)
    latent: Shape | None = (1, 4, 8, 8)
    """To decode; None where it only encodes."""
    picture: Shape | None = (1, 64, 64, 3)
    """To encode, channels last, also of sound; None where it only decodes."""
    metadata: Mapping[str, Any] | None = None
    """Of the file."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What its node tells it for decoding."""


def subjects() -> Iterator[Subject]:
    """Those that the host knows."""
    known = kinds_of_the_host()
    for vae in FAMILIES:
        if vae.kind in known:
            yield Subject(vae.name, functools.partial(load, vae), functools.partial(coded, vae), "VAE")


def load(vae: Vae) -> Any:
    """A VAE of the host with random weights, which computes on the CPU in fp32.

    Raises:
        LookupError: this host does not know it.
    """
    import comfy.sd

    keys = {name: torch.zeros(shape) for name, shape in vae.keys.items()}
    with shrunk(vae.sizes), unread(), marked():
        told = {} if vae.metadata is None else {"metadata": dict(vae.metadata)}
        made = comfy.sd.VAE(sd=keys, device=torch.device("cpu"), dtype=torch.float32, **told)
    if made.first_stage_model is None:
        raise LookupError(vae.name)
    fill(made.first_stage_model).eval().requires_grad_(False)
    made.patcher.offload_device = torch.device("cpu")
    return made


def coded(vae: Vae, placed: Any) -> torch.Tensor:
    """What it decodes and encodes, on the host."""
    generator = torch.Generator().manual_seed(SEED)
    answers = []
    if vae.latent is not None:
        answers.append(placed.decode(torch.randn(vae.latent, generator=generator), **vae.options))
    if vae.picture is not None:
        answers.append(placed.encode(torch.rand(vae.picture, generator=generator)))
    return torch.cat([answer.to("cpu", torch.float32).flatten() for answer in answers])


def kinds_of_the_host() -> set[str]:
    """The classes that `comfy.sd.VAE` makes networks of."""
    import comfy.sd

    tree = ast.parse(inspect.getsource(comfy.sd.VAE))
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    return {_kind(node.value) for node in made if ast.unparse(node.targets[0]) == "self.first_stage_model"} - {
        "self.first_stage_model.eval"
    }


def _kind(call: Any) -> str:
    decoders = [keyword.value for keyword in call.keywords if keyword.arg == "decoder_config"]
    if not decoders:
        return ast.unparse(call.func)
    targets = [node.value for node in ast.walk(decoders[0]) if isinstance(node, ast.Constant)]
    return next(target for target in targets if isinstance(target, str) and target.startswith("comfy."))


# fmt: off
DIFFUSION = "comfy.ldm.modules.diffusionmodules.model."
KL = {DIFFUSION + "Encoder": {"ch": 32}, DIFFUSION + "Decoder": {"ch": 32}}
KL_KEYS = {"decoder.conv_in.weight": (512, 4, 3, 3), "encoder.down.2.downsample.conv.weight": ()}
POST_QUANT = {"post_quant_conv.weight": (4, 4, 1, 1)}
REFINER = {
    f"comfy.ldm.hunyuan_video.vae_refiner.{side}coder": {"block_out_channels": channels}
    for side, channels in (("En", [32, 32, 64, 64, 64]), ("De", [32, 32, 64, 64, 64]))
}
FRAMES_1 = (1, 32, 32, 3)
FRAMES_5 = (5, 32, 32, 3)
SOUND = (1, 8192, 2)
RES_X = ["res_x", {"num_layers": 1}]
LTX_BLOCKS = [RES_X, ["compress_all", {}], RES_X, ["compress_all", {}], RES_X, ["compress_all", {}], RES_X]
LTX = {
    "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 128,
    "encoder_blocks": LTX_BLOCKS, "decoder_blocks": LTX_BLOCKS, "encoder_base_channels": 32,
    "decoder_base_channels": 32, "scaling_factor": 1.0, "norm_layer": "pixel_norm", "patch_size": 4,
    "latent_log_var": "uniform", "use_quant_conv": False, "causal_decoder": False,
}
LTX_SOUND = {
    "audio_vae": {
        "model": {"params": {
            "ddconfig": {
                "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "downsample_time": False,
                "in_channels": 2, "out_ch": 2, "ch": 32, "ch_mult": [1, 2, 4], "num_res_blocks": 1,
                "attn_resolutions": [], "dropout": 0.0, "mid_block_add_attention": False, "norm_type": "pixel",
                "causality_axis": "height",
            },
            "sampling_rate": 16000,
        }},
        "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}},
    },
    "vocoder": {"upsample_initial_channel": 64},
}
LTX_24 = {
    "vae": {
        "encoder": {
            "blocks": [
                RES_X, ["compress_space_res", {"multiplier": 2}], RES_X, ["compress_time_res", {"multiplier": 2}],
                RES_X, ["compress_all_res", {"multiplier": 2}], RES_X, ["compress_all_res", {"multiplier": 1}], RES_X,
            ],
            "base_channels": 32,
        },
        "decoder": {
            "head_dim": 32, "stage_channels": [256, 128, 64, 64, 32], "stage_depths": [1, 1, 1, 1, 1], "t_emb_dim": 64,
        },
    },
}

FAMILIES = (
    Vae("VAE-SD", "AutoencoderKL", {**KL_KEYS, **POST_QUANT}, KL),
    Vae("VAE-Flux", DIFFUSION + "Decoder", {**KL_KEYS, "decoder.conv_in.weight": (512, 16, 3, 3)}, KL, (1, 16, 8, 8)),
    Vae(
        "VAE-Flux2", "AutoencoderKL",
        {
            **KL_KEYS, "decoder.conv_in.weight": (512, 32, 3, 3), "post_quant_conv.weight": (32, 32, 1, 1),
            "bn.running_mean": (128,),
        },
        KL, (1, 128, 4, 4),
    ),
    Vae(
        "VAE-x4-upscaler", "AutoencoderKL", {"decoder.conv_in.weight": (512, 4, 3, 3), **POST_QUANT}, KL,
    ),
    Vae(
        "VAE-SVD", "comfy.ldm.modules.temporal_ae.VideoDecoder", {"decoder.mid.block_1.mix_factor": (1,)},
        {**KL, "comfy.ldm.modules.temporal_ae.VideoDecoder": {"ch": 32}}, (3, 4, 8, 8),
    ),
    Vae("VAE-TAESD", "comfy.taesd.taesd.TAESD", {"taesd_decoder.1.weight": (64, 4, 3, 3)}),
    Vae("VAE-Stage-A", "StageA", {"vquantizer.codebook.weight": (8192, 4)},
        {"comfy.ldm.cascade.stage_a.StageA": {"c_hidden": 64, "bottleneck_blocks": 2}}),
    Vae("VAE-Stage-C", "StageC_coder", {"encoder.backbone.1.0.block.0.1.num_batches_tracked": ()},
        {"comfy.ldm.cascade.stage_c_coder.Previewer": {"c_hidden": 64}}, (1, 16, 4, 4)),
    Vae("VAE-Stage-C-encoder", "StageC_coder", {"backbone.1.0.block.0.1.num_batches_tracked": ()},
        {"comfy.ldm.cascade.stage_c_coder.Previewer": {"c_hidden": 64}}, None),
    Vae("VAE-Stage-C-decoder", "StageC_coder", {"blocks.11.num_batches_tracked": ()},
        {"comfy.ldm.cascade.stage_c_coder.Previewer": {"c_hidden": 64}}, (1, 16, 4, 4), None),
    Vae("VAE-HunyuanImage", "comfy.ldm.hunyuan_video.vae.Decoder", {"decoder.conv_in.weight": (1024, 64, 3, 3)},
        {f"comfy.ldm.hunyuan_video.vae.{side}coder": {"block_out_channels": [32, 32, 32, 64, 64, 128]}
         for side in ("En", "De")}, (1, 64, 2, 2)),
    Vae("VAE-HunyuanImage-refiner", "comfy.ldm.hunyuan_video.vae_refiner.Decoder",
        {"decoder.conv_in.weight": (1024, 32, 3, 3, 3)}, REFINER, (1, 32, 1, 2, 2), FRAMES_1),
    Vae("VAE-HunyuanVideo15", "comfy.ldm.hunyuan_video.vae_refiner.Decoder",
        {"decoder.conv_in.conv.weight": (1024, 32, 3, 3, 3)}, REFINER, (1, 32, 2, 2, 2), FRAMES_5),
    Vae("VAE-HunyuanVideo", "AutoencoderKL",
        {"decoder.conv_in.conv.weight": (512, 16, 3, 3, 3), "post_quant_conv.weight": (16, 16, 1, 1, 1)},
        KL, (1, 16, 2, 4, 4), FRAMES_5),
    Vae("VAE-Oobleck", "AudioOobleckVAE", {"decoder.layers.1.layers.0.beta": (1,)},
        {"comfy.ldm.audio.autoencoder.AudioOobleckVAE": {"channels": 16}}, (1, 64, 4), None),  # encodes with chance
    Vae("VAE-Mochi", "comfy.ldm.genmo.vae.model.VideoVAE", {"decoder.blocks.2.blocks.3.stack.5.weight": (1,)},
        {
            "comfy.ldm.genmo.vae.model.Encoder": {"base_channels": 32, "num_res_blocks": [1, 1, 1, 1, 1]},
            "comfy.ldm.genmo.vae.model.Decoder": {"base_channels": 32, "num_res_blocks": [1, 1, 1, 1, 1]},
        }, (1, 12, 2, 4, 4), (7, 32, 32, 3)),
    Vae("VAE-LTXV", "comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE",
        {"decoder.up_blocks.0.res_blocks.0.conv1.conv.weight": (512,)}, {}, (1, 128, 2, 2, 2), (9, 64, 64, 3),
        {"config": json.dumps({"vae": LTX})}),
    Vae("VAE-Cosmos", "comfy.ldm.cosmos.vae.CausalContinuousVideoTokenizer", {"decoder.unpatcher3d.wavelets": (1,)},
        {"comfy.ldm.cosmos.vae.CausalContinuousVideoTokenizer": {"channels": 32}}, (1, 16, 2, 4, 4), (9, 32, 32, 3)),
    Vae("VAE-Wan21", "comfy.ldm.wan.vae.WanVAE",
        {
            "decoder.middle.0.residual.0.gamma": (1,), "decoder.head.0.gamma": (24,),
            "encoder.conv1.weight": (24, 3, 3, 3, 3), "decoder.head.2.weight": (3, 24, 3, 3, 3),
        }, {}, (1, 16, 2, 4, 4), FRAMES_5),
    Vae("VAE-Wan22", "comfy.ldm.wan.vae2_2.WanVAE",
        {"decoder.middle.0.residual.0.gamma": (1,), "decoder.upsamples.0.upsamples.0.residual.2.weight": (1,)},
        {"comfy.ldm.wan.vae2_2.WanVAE": {"dim": 24, "dec_dim": 24}}, (1, 48, 2, 2, 2), FRAMES_5),
    Vae("VAE-Hunyuan3D", "comfy.ldm.hunyuan3d.vae.ShapeVAE", {"geo_decoder.cross_attn_decoder.ln_1.bias": (1,)},
        {"comfy.ldm.hunyuan3d.vae.ShapeVAE": {
            "width": 64, "heads": 2, "num_latents": 16, "num_decoder_layers": 2, "num_encoder_layers": 1,
        }}, (1, 64, 16), None, options={"vae_options": {"octree_resolution": 8, "num_chunks": 256}}),
    Vae("VAE-ACEStep", "comfy.ldm.ace.vae.music_dcae_pipeline.MusicDCAE",
        {"vocoder.backbone.channel_layers.0.0.bias": (1,)},
        {
            "comfy.ldm.ace.vae.autoencoder_dc.AutoencoderDC": {
                "encoder_block_out_channels": (32, 32, 64, 64), "decoder_block_out_channels": (32, 32, 64, 64),
                "encoder_layers_per_block": (1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1),
            },
            "comfy.ldm.ace.vae.music_vocoder.ADaMoSHiFiGANV1": {
                "depths": [1, 1, 1, 1], "dims": [32, 32, 32, 64], "num_mels": 64, "upsample_initial_channel": 128,
            },
        }, (1, 8, 16, 4), (1, 16384, 2)),
    Vae("VAE-MMAudio", "comfy.ldm.mmaudio.vae.autoencoder.AudioAutoencoder",
        {"vocoder.activation_post.downsample.lowpass.filter": (1,)},
        {
            "comfy.ldm.mmaudio.vae.vae.VAE": {"hidden_dim": 32},
            "comfy.ldm.mmaudio.vae.bigvgan.BigVGANVocoder": {"h": {"upsample_initial_channel": 128}},
        }, (1, 20, 8), SOUND),
    Vae("VAE-TAEHV", "comfy.taesd.taehv.TAEHV", {"decoder.22.bias": (3,), "decoder.1.weight": (256, 16, 3, 3)}, {},
        (1, 16, 2, 4, 4), FRAMES_5),
    Vae("VAE-TAEHV-Wan22", "comfy.taesd.taehv.TAEHV", {"decoder.22.bias": (12,), "decoder.1.weight": (256, 48, 3, 3)},
        {}, (1, 48, 2, 4, 4), None),  # older hosts refuse to encode
    Vae("VAE-LTX-sound", "comfy.ldm.lightricks.vae.audio_vae.AudioVAE", {"vocoder.resblocks.0.convs1.0.weight": (1,)},
        {}, (1, 8, 4, 16), (1, 16000, 2), {"config": json.dumps(LTX_SOUND)}),
    Vae("VAE-SeedVR2", "comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper",
        {"decoder.up_blocks.2.upsamplers.0.upscale_conv.weight": (1,)},
        {f"comfy.ldm.seedvr.vae.{side}coder3D": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1}
         for side in ("En", "De")}, (1, 16, 2, 4, 4), FRAMES_5),
    Vae("VAE-Mage", "comfy.ldm.mage_flow.vae.MageVAE", {"student.dconv_encoder.proj_out.weight": (1,)},
        {
            "comfy.ldm.mage_flow.vae.DConvEncoder": {"hidden_size": 64, "num_blocks": 2, "head_size": 64},
            "comfy.ldm.mage_flow.vae.DConvDenoiser": {
                "hidden_size": 64, "hidden_size_x": 32, "num_blocks": 3, "num_cond_blocks": 2,
            },
        }, (1, 128, 2, 2), FRAMES_1),
    Vae("VAE-LTX24", "comfy.ldm.lightricks.vae.na_diffusion_decoder.CausalDiffusionVAE",
        {"decoder.conv_in_x_t.weight": (1,), "decoder.conv_in.weight": (256, 128, 1, 1, 1)}, {},
        (1, 128, 2, 2, 2), (9, 64, 64, 3), {"config": json.dumps(LTX_24)}),
    Vae("VAE-CogVideoX", "comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX",
        {
            "decoder.conv_in.conv.weight": (512, 16, 3, 3, 3), "encoder.conv_out.conv.weight": (32, 512, 3, 3, 3),
            "decoder.mid_block.resnets.0.norm1.norm_layer.weight": (1,),
        },
        {"comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX": {
            "block_out_channels": (32, 32, 32, 64), "layers_per_block": 1,
        }}, (1, 16, 2, 4, 4), FRAMES_5),
    Vae("VAE-MiniMaxH3", "comfy.ldm.minimax.vae.MiniMaxH3VideoVAE",
        {"decoder.transformer_blocks.0.scale1": (1,), "encoder.down.5.block.0.conv1.weight": (1,)},
        {
            "comfy.ldm.minimax.vae.MiniMaxH3VideoVAE": {"ch": 32, "num_res_blocks": 1},
            "comfy.ldm.minimax.vae.ViT3DDecoder": {"num_layers": 2, "heads": 2},
        }, (1, 24, 2, 2, 2), FRAMES_5),
    Vae("VAE-MiniMaxH3-sound", "comfy.ldm.minimax.audio_vae.MiniMaxH3AudioVAE", {"pre_block.attn.zero_k_bias": (1,)},
        {"comfy.ldm.minimax.audio_vae.MiniMaxH3AudioVAE": {"encoder_dim": 16, "latent_dim": 64, "decoder_dim": 256}},
        (1, 32, 2, 4), (1, 3200, 2)),
    Vae("VAE-MiniMaxMusic3", "comfy.ldm.minimax_music.dav.MiniMaxMusic3DAV",
        {"dec_in_proj.weight": (1024, 64, 1), "decoder.model.0.weight_g": (1,)}, {}, (1, 128, 2), None),
)

NOT_CODED = {
    "comfy.pixel_space_convert.PixelspaceConversionVAE": "has no weights and hands pixels on",
    "comfy.ldm.audio.vae_sa3.SA3AudioVAE": "adds noise, drawn where it runs, to what it decodes",
    "comfy.ldm.trellis2.vae.ShapeVae": "its nodes call parts of it on sparse tensors, `decode` is nobody's",
    "comfy.ldm.trellis2.vae.TextureVae": "its nodes call parts of it on sparse tensors, `decode` is nobody's",
    "comfy.ldm.triposplat.vae.OctreeGaussianDecoder": "its node calls it with a number of points, `decode` refuses",
}
"""Classes of `comfy.sd.VAE` that neither decode nor encode by themselves, and why."""
