"""Families that make videos."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .family import Family
from .images import LINEAR, NO_POOLED, NO_SUM, POOLED, PREDICT2, TEXT, WHOLE

# fmt: off
VIDEO = (1, 16, 2, 8, 8)


def seen(width: int, tokens: int = 4) -> Any:
    """What a CLIP vision model answers."""

    def make(draw: Any) -> Any:
        hidden = draw(1, tokens, width)
        return SimpleNamespace(penultimate_hidden_states=hidden, last_hidden_state=hidden)

    return make


TEMPORAL: dict[str, Any] = {
    **LINEAR,
    "in_channels": 8, "num_classes": "sequential", "use_temporal_attention": True, "use_temporal_resblock": True,
    "video_kernel_size": [3, 1, 1], "extra_ff_mix_layer": True, "use_spatial_context": True,
    "merge_strategy": "learned_with_images", "merge_factor": 0.0,
}
WAN: dict[str, Any] = {
    "dim": 128, "ffn_dim": 256, "num_heads": 2, "num_layers": 2, "text_dim": 64, "freq_dim": 64,
    "in_dim": 16, "out_dim": 16,
}
HUNYUAN: dict[str, Any] = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 64, "context_in_dim": 64, "hidden_size": 128,
    "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [16, 24, 24],
    "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True, "guidance_embed": True, "byt5": False,
    "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None,
}
HUNYUAN_15: dict[str, Any] = {
    **HUNYUAN,
    "in_channels": 65, "out_channels": 32, "vec_in_dim": None, "patch_size": [1, 1, 1], "guidance_embed": False,
    "use_cond_type_embedding": True, "vision_in_dim": 64,
}
COSMOS: dict[str, Any] = {
    "max_img_h": 24, "max_img_w": 24, "max_frames": 16, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 128, "num_blocks": 2, "num_heads": 2,
    "crossattn_emb_channels": 64, "pos_emb_cls": "rope3d", "block_x_format": "THWBD", "affline_emb_norm": True,
    "use_adaln_lora": True, "adaln_lora_dim": 32, "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
COGVIDEO = {
    "num_attention_heads": 2, "attention_head_dim": 64, "time_embed_dim": 64, "text_embed_dim": 64,
    "num_layers": 2, "use_rotary_positional_embeddings": True,
}
LTX = {
    "cross_attention_dim": 128, "attention_head_dim": 32, "num_attention_heads": 4, "caption_channels": 64,
    "num_layers": 2,
}

POSED = {
    "clip_vision_output": seen(1280),
    "reference_latents": [(1, 16, 1, 8, 8)],
    "pose_video_latent": (1, 16, 2, 4, 4),
}
FAMILIES = (
    Family("SVD_img2vid", {**TEMPORAL, "adm_in_channels": 768}, (2, 4, 8, 8), (1, 64)),
    Family("SV3D_u", {**TEMPORAL, "adm_in_channels": 256}, (2, 4, 8, 8), (1, 64)),
    Family("SV3D_p", {**TEMPORAL, "adm_in_channels": 1280}, (2, 4, 8, 8), (1, 64)),
    Family(
        "GenmoMochi",
        {
            "in_channels": 12, "hidden_size_x": 128, "hidden_size_y": 64, "depth": 2, "num_heads": 2,
            "mlp_ratio_x": 96.0, "mlp_ratio_y": 4.0, "use_t5": True, "t5_feat_dim": 64, "t5_token_length": 7,
            "learn_sigma": False, "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0,
            "posenc_preserve_area": True, "timestep_scale": 1000.0,
        },
        (1, 12, 2, 8, 8),
        TEXT,
        WHOLE,
    ),
    Family("LTXV", {**LTX, "in_channels": 128}, (1, 128, 2, 4, 4), TEXT, WHOLE),
    Family(
        "LTXAV",
        {
            **LTX, "in_channels": 128, "audio_in_channels": 128, "audio_cross_attention_dim": 128,
            "audio_attention_head_dim": 32, "audio_num_attention_heads": 4,
            "connector_attention_head_dim": 32, "connector_num_attention_heads": 2,
        },
        ((1, 128, 2, 4, 4), (1, 8, 4, 16)),
        (7, 128),
        WHOLE,
    ),
    Family(
        "MiniMaxH3",
        {
            "hidden_size": 128, "num_layers": 2, "token_refiner_num_layers": 1, "num_attention_heads": 2,
            "attention_head_dim": 64, "ffn_hidden_size": 256, "text_dim": 64, "time_embed_hidden_size": 128,
            "time_embed_dim": 64, "rope_inv_freq_len": 8, "latents_dim": 24,
        },
        ((1, 24, 2, 4, 4), (1, 32, 2, 6)),
        TEXT,
    ),
    Family("HunyuanVideo", HUNYUAN, VIDEO, TEXT, POOLED, newer=NO_SUM),
    Family("HunyuanVideoI2V", {**HUNYUAN, "in_channels": 33}, VIDEO, TEXT, POOLED, newer=NO_SUM),
    Family("HunyuanVideoSkyreelsI2V", {**HUNYUAN, "in_channels": 32}, VIDEO, TEXT, POOLED, newer=NO_SUM),
    Family("HunyuanVideo15", HUNYUAN_15, (1, 32, 2, 4, 4), TEXT, NO_POOLED, newer=NO_SUM),
    Family(
        "HunyuanVideo15_SR_Distilled",
        {**HUNYUAN_15, "in_channels": 98},
        (1, 32, 2, 4, 4),
        TEXT,
        NO_POOLED,
        newer=NO_SUM,
    ),
    Family("CosmosT2V", COSMOS, VIDEO, TEXT),
    Family("CosmosI2V", {**COSMOS, "in_channels": 17}, VIDEO, TEXT),
    Family("CosmosI2VPredict2", {**PREDICT2, "in_channels": 17}, VIDEO, TEXT),
    Family("WAN21_T2V", WAN, VIDEO, TEXT),
    Family("WAN21_CausalAR_T2V", WAN, (1, 16, 3, 8, 8), TEXT, cfg=1.0, sampler="ar_video"),
    Family("WAN21_I2V", {**WAN, "in_dim": 36}, VIDEO, TEXT, {"clip_vision_output": seen(1280)}),
    Family("WAN21_FunControl2V", {**WAN, "in_dim": 48}, VIDEO, TEXT, {"clip_vision_output": seen(1280)}),
    Family("WAN21_Vace", {**WAN, "vace_layers": 1, "vace_in_dim": 96}, VIDEO, TEXT),
    Family(
        "WAN21_Camera",
        {**WAN, "in_dim": 32},
        VIDEO,
        TEXT,
        {"clip_vision_output": seen(1280), "camera_conditions": (1, 24, 2, 64, 64)},
    ),
    Family("WAN22_Camera", {**WAN, "in_dim": 36}, VIDEO, TEXT, {"camera_conditions": (1, 24, 2, 64, 64)}),
    Family("WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, (1, 48, 2, 8, 8), TEXT),
    Family(
        "WAN22_S2V",
        {**WAN, "audio_dim": 64, "audio_inject_layers": [0]},
        VIDEO,
        TEXT,
        {"audio_embed": (1, 25, 64, 8), "reference_latents": [(1, 16, 1, 8, 8)]},
    ),
    Family(
        "WAN21_HuMo",
        {**WAN, "in_dim": 36},
        VIDEO,
        TEXT,
        {"audio_embed": (1, 2, 8, 5, 1280), "reference_latents": [(1, 16, 1, 8, 8)]},
    ),
    Family(
        "WAN22_Animate",
        {**WAN, "in_dim": 36, "num_layers": 5, "motion_encoder_dim": 512},
        VIDEO,
        TEXT,
        {"clip_vision_output": seen(1280), "pose_video_latent": (1, 16, 1, 8, 8)},
    ),
    Family(
        "WAN_Animate2",
        {**WAN, "in_dim": 36},
        VIDEO,
        TEXT,
        {
            "clip_vision_output": seen(1280, 257),
            "clip_vision_output_pose": seen(1280, 257),
            "cross_attn_pose": (1, 7, 64),
            "pose_video_latent": (1, 16, 1, 8, 8),
        },
    ),
    Family("WAN21_FlowRVS", WAN, VIDEO, TEXT),
    Family(
        "WAN21_SCAIL",
        {**WAN, "in_dim": 20},
        VIDEO,
        TEXT,
        POSED,
    ),
    Family(
        "WAN21_SCAIL2",
        {**WAN, "in_dim": 20},
        VIDEO,
        TEXT,
        {
            **POSED,
            "driving_mask_28ch": (1, 2, 28, 4, 4),
            "ref_mask_28ch": (1, 3, 28, 8, 8),
        },
    ),
    Family(
        "WAN22_WanDancer",
        {**WAN, "in_dim": 36, "audio_inject_layers": [0], "music_dim": 64, "music_heads": 2, "music_latent_dim": 64},
        VIDEO,
        TEXT,
        {
            "clip_vision_output": seen(1280),
            "clip_vision_output_ref": seen(1280),
            "audio_embed": (1, 8, 35),
            "fps": 30,
        },
    ),
    Family(
        "Kandinsky5",
        {
            "in_text_dim": 64, "in_text_dim2": 64, "time_dim": 64, "model_dim": 128, "ff_dim": 256,
            "visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (16, 24, 24),
        },
        VIDEO,
        TEXT,
        POOLED,
    ),
    Family(
        "SeedVR2",
        {
            "norm_eps": 1e-5, "num_layers": 4, "mlp_type": "swiglu", "vid_dim": 256, "txt_in_dim": 64, "heads": 2,
            "mm_layers": 1, "vid_out_norm": True,
        },
        VIDEO,
        TEXT,
        {"condition": (1, 17, 2, 8, 8)},
    ),
    Family("CogVideoX_T2V", COGVIDEO, VIDEO, TEXT),
    Family("CogVideoX_I2V", {**COGVIDEO, "in_channels": 32}, VIDEO, TEXT),
    Family("CogVideoX_Inpaint", {**COGVIDEO, "in_channels": 48}, VIDEO, TEXT),
)
