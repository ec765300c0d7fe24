"""Families that make pictures."""

from __future__ import annotations

from typing import Any

import torch

from .family import Family

# fmt: off
TEXT = (7, 64)
POOLED = {"pooled_output": (1, 64)}
NO_POOLED = {"pooled_output": None}
PICTURE = (1, 4, 8, 8)
PICTURE_16 = (1, 16, 8, 8)
PICTURE_128 = (1, 128, 4, 4)
PIXELS = (1, 3, 32, 32)

UNET: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 2),
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "use_spatial_transformer": True,
    "legacy": False,
    "context_dim": 64,
    "num_heads": 4,
    "num_head_channels": -1,
}
"""With two levels."""
LINEAR: dict[str, Any] = {**UNET, "use_linear_in_transformer": True}
XL: dict[str, Any] = {**LINEAR, "num_classes": "sequential", "adm_in_channels": 6 * 256 + 64}
IN_8 = {"in_channels": 8}

FLUX: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 64,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 24, 24],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
}
PIXEL_DIT: dict[str, Any] = {
    "num_groups": 2, "hidden_size": 128, "pixel_attn_hidden_size": 64, "pixel_num_groups": 2,
    "patch_depth": 2, "pixel_depth": 1, "txt_embed_dim": 64, "txt_max_length": 7,
}
NO_TEXT_IDS = {"txt_ids_dims": []}
NO_SUM = {"meanflow_sum": False}
CHROMA: dict[str, Any] = {
    **{name: value for name, value in FLUX.items() if name not in ("guidance_embed", "vec_in_dim")},
    "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 128, "hidden_dim": 128, "n_layers": 2,
}
RADIANCE: dict[str, Any] = {
    **CHROMA,
    "in_channels": 3, "out_channels": 3, "patch_size": 16,
    "nerf_hidden_size": 64, "nerf_mlp_ratio": 4, "nerf_depth": 2, "nerf_max_freqs": 8, "nerf_tile_size": 512,
    "nerf_final_head_type": "conv", "nerf_embedder_dtype": None,
}
LUMINA: dict[str, Any] = {
    "patch_size": 2, "in_channels": 16, "dim": 96, "n_layers": 2, "n_refiner_layers": 1, "qk_norm": True,
    "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 64, "axes_dims": [16, 16, 16], "axes_lens": [300, 512, 512],
}
Z_IMAGE: dict[str, Any] = {
    **LUMINA, "dim": 256, "axes_dims": [32, 48, 48], "rope_theta": 256.0,
    "z_image_modulation": True, "time_scale": 1000.0,
}
WHOLE = {"attention_mask": lambda draw: torch.ones(1, 7, dtype=torch.int64)}
"""A mask that leaves out nothing."""
HUNYUAN_DIT = {
    "depth": 4, "hidden_size": 128, "num_heads": 4, "text_states_dim": 64, "text_states_dim_t5": 64,
    "input_size": 8, "text_len": 7, "text_len_t5": 9,
}
HUNYUAN_DIT_TEXTS = {
    **WHOLE,
    "conditioning_mt5xl": (1, 9, 64),
    "attention_mask_mt5xl": lambda draw: torch.ones(1, 9, dtype=torch.int64),
}
PIXART = {
    "hidden_size": 96, "depth": 2, "num_heads": 4, "caption_channels": 64, "input_size": 8,
    "model_max_length": 7, "pe_interpolation": 1,
}
OMNIGEN = {
    "hidden_size": 96, "num_layers": 2, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 2,
    "multiple_of": 32, "axes_dim_rope": (16, 16, 16), "axes_lens": (300, 512, 512),
}
PREDICT2: dict[str, Any] = {
    "max_img_h": 24, "max_img_w": 24, "max_frames": 16, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 128, "num_blocks": 2, "num_heads": 2,
    "concat_padding_mask": True, "crossattn_emb_channels": 64, "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True, "use_adaln_lora": True, "adaln_lora_dim": 32, "rope_enable_fps_modulation": False,
}
QWEN = {
    "in_channels": 64, "num_layers": 2, "attention_head_dim": 64, "num_attention_heads": 2,
    "joint_attention_dim": 64, "axes_dims_rope": (16, 24, 24),
}
HUNYUAN_IMAGE: dict[str, Any] = {
    "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "context_in_dim": 64, "hidden_size": 128,
    "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2, "axes_dim": [32, 32], "theta": 256,
    "patch_size": [1, 1], "qkv_bias": True, "guidance_embed": False, "byt5": False, "meanflow": False,
    "use_cond_type_embedding": False, "vision_in_dim": None,
}
SD3 = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
    "adm_in_channels": 64, "num_patches": 256, "pos_embed_max_size": 16, "pos_embed_scaling_factor": None,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}},
}
CASCADE = {"c_cond": 64, "c_hidden": [64, 128], "nhead": [2, 4], "blocks": [[1, 2], [2, 1]]}

UNETS = (
    Family("SD15", UNET, PICTURE, TEXT),
    Family("SD15_instructpix2pix", {**UNET, **IN_8}, PICTURE, TEXT),
    Family("SD20", LINEAR, PICTURE, TEXT),
    Family("SD21UnclipL", {**LINEAR, "num_classes": "sequential", "adm_in_channels": 1536}, PICTURE, TEXT),
    Family("SD21UnclipH", {**LINEAR, "num_classes": "sequential", "adm_in_channels": 2048}, PICTURE, TEXT),
    Family("SDXLRefiner", {**XL, "adm_in_channels": 5 * 256 + 64}, PICTURE, TEXT, POOLED),
    Family("SDXL", XL, PICTURE, TEXT, POOLED),
    Family("SDXL_instructpix2pix", {**XL, **IN_8}, PICTURE, TEXT, POOLED),
    Family("SSD1B", XL, PICTURE, TEXT, POOLED),
    Family("KOALA_700M", XL, PICTURE, TEXT, POOLED),
    Family("KOALA_1B", XL, PICTURE, TEXT, POOLED),
    Family("Segmind_Vega", XL, PICTURE, TEXT, POOLED),
    Family("LotusD", {**LINEAR, "num_classes": "sequential", "adm_in_channels": 4}, PICTURE, TEXT),
    Family(
        "Stable_Zero123",
        {**UNET, **IN_8, "context_dim": 768},
        PICTURE,
        (1, 772),
        weights={"cc_projection.weight": (768, 772), "cc_projection.bias": (768,)},
    ),
    Family(
        "SD_X4Upscaler",
        {**LINEAR, "in_channels": 7, "num_classes": 1000, "disable_self_attentions": [True, False]},
        PICTURE,
        TEXT,
    ),
    Family(
        "Stable_Cascade_C",
        {**CASCADE, "c_clip_text": 64, "c_clip_text_pooled": 64, "stable_cascade_stage": "c"},
        PICTURE_16,
        TEXT,
        POOLED,
    ),
    Family(
        "Stable_Cascade_B",
        {
            **CASCADE, "c_clip": 64, "level_config": ["CT", "CTA"], "block_repeat": [[1, 1], [2, 2]],
            "dropout": [0, 0.0], "stable_cascade_stage": "b",
        },
        (1, 4, 16, 16),
        TEXT,
        POOLED,
    ),
)

TRANSFORMERS = (
    Family("SD3", SD3, PICTURE_16, TEXT, POOLED),
    Family(
        "AuraFlow",
        {
            "dim": 128, "n_layers": 3, "n_double_layers": 1, "n_heads": 2, "global_conddim": 128,
            "cond_seq_dim": 64, "max_seq": 64,
        },
        PICTURE,
        TEXT,
    ),
    Family("PixArtAlpha", {**PIXART, "micro_condition": True}, (1, 4, 48, 48), TEXT, {"width": 384, "height": 384}),
    Family("PixArtSigma", {**PIXART, "micro_condition": False}, (1, 4, 48, 48), TEXT),
    Family("HunyuanDiT", HUNYUAN_DIT, PICTURE, TEXT, HUNYUAN_DIT_TEXTS),
    Family("HunyuanDiT1", {**HUNYUAN_DIT, "size_cond": True, "use_style_cond": True}, PICTURE, TEXT, HUNYUAN_DIT_TEXTS),
    Family("Flux", FLUX, PICTURE_16, TEXT, POOLED, newer=NO_TEXT_IDS),
    Family("FluxInpaint", {**FLUX, "in_channels": 96}, PICTURE_16, TEXT, POOLED, newer=NO_TEXT_IDS),
    Family("FluxSchnell", {**FLUX, "guidance_embed": False}, PICTURE_16, TEXT, POOLED, newer=NO_TEXT_IDS),
    Family(
        "LongCatImage", {**FLUX, "guidance_embed": False, "vec_in_dim": None, "txt_ids_dims": [1, 2]}, PICTURE_16, TEXT
    ),
    Family(
        "Flux2",
        {
            **FLUX,
            "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "patch_size": 1, "mlp_ratio": 3.0,
            "axes_dim": [16, 16, 16, 16], "theta": 2000, "global_modulation": True, "mlp_silu_act": True,
            "qkv_bias": False, "ops_bias": False, "default_ref_method": "index", "ref_index_scale": 10.0,
        },
        PICTURE_128,
        TEXT,
        NO_POOLED,
        newer={"txt_ids_dims": [3]},
    ),
    Family("Chroma", CHROMA, PICTURE_16, TEXT, NO_POOLED, newer={**NO_TEXT_IDS, "vec_in_dim": None}),
    Family(
        "ChromaRadiance",
        RADIANCE,
        PIXELS,
        TEXT,
        NO_POOLED,
        newer={**NO_TEXT_IDS, "vec_in_dim": None, "use_x0": False, "use_sequential_txt_ids": False},
    ),
    Family("Lumina2", LUMINA, PICTURE_16, TEXT),
    Family("ZImage", Z_IMAGE, PICTURE_16, TEXT, newer={"pad_tokens_multiple": 32}),
    Family(
        "ZImagePixelSpace",
        {
            **Z_IMAGE, "in_channels": 3, "patch_size": 16, "decoder_hidden_size": 64,
            "decoder_num_res_blocks": 1, "decoder_max_freqs": 8, "decoder_in_channels": 768,
        },
        PIXELS,
        TEXT,
    ),
    Family(
        "HiDream",
        {
            "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 2, "num_single_layers": 2,
            "attention_head_dim": 64, "num_attention_heads": 2, "caption_channels": [64, 64], "text_emb_dim": 64,
            "num_routed_experts": 4, "num_activated_experts": 2, "axes_dims_rope": (32, 16, 16),
            "max_resolution": (16, 16), "llama_layers": [0, 1, 1, 1],
        },
        PICTURE_16,
        TEXT,
        {**POOLED, "conditioning_llama3": (1, 2, 7, 64)},
    ),
    Family("Omnigen2", {**OMNIGEN, "text_feat_dim": 64}, PICTURE_16, TEXT, WHOLE),
    Family("Boogu", {**OMNIGEN, "num_double_stream_layers": 1, "instruction_feat_dim": 64}, PICTURE_16, TEXT, WHOLE),
    Family("QwenImage", QWEN, (1, 16, 1, 8, 8), TEXT),
    Family("MageFlow", {**QWEN, "in_channels": 128, "out_channels": 128}, PICTURE_128, TEXT),
    Family("HunyuanImage21", HUNYUAN_IMAGE, (1, 64, 4, 4), TEXT, newer=NO_SUM),
    Family(
        "HunyuanImage21Refiner",
        {**HUNYUAN_IMAGE, "in_channels": 128, "axes_dim": [16, 24, 24], "patch_size": [1, 1, 1]},
        (1, 64, 1, 4, 4),
        TEXT,
        newer=NO_SUM,
    ),
    Family(
        "HiDreamO1",
        {
            "text_config_overrides": {
                "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                "intermediate_size": 256, "head_dim": 128,
            },
            "vision_config_overrides": {"hidden_size": 128, "num_heads": 2, "intermediate_size": 256, "depth": 1},
        },
        (1, 3, 64, 64),
        None,
        {"text_input_ids": lambda draw: (draw(1, 9).abs() * 20).long()},
        forget="clear_kv_cache",  # else a first run computes the prompt's keys and values, and further ones do not
    ),
    Family("CosmosT2IPredict2", PREDICT2, (1, 16, 1, 8, 8), TEXT),
    Family("Anima", PREDICT2, (1, 16, 1, 8, 8), TEXT),
    Family(
        "JoyImage",
        {
            "in_channels": 16, "out_channels": 16, "hidden_size": 128, "num_attention_heads": 2, "text_dim": 64,
            "num_layers": 2, "rope_dim_list": [16, 24, 24],
        },
        (1, 16, 1, 8, 8),
        TEXT,
    ),
    Family(
        "Ideogram4",
        {
            "in_channels": 128, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 64,
            "intermediate_size": 256, "adaln_dim": 64, "llm_features_dim": 64, "mrope_section": (8, 12, 12),
        },
        PICTURE_128,
        TEXT,
    ),
    Family(
        "Krea2",
        {
            "features": 256, "tdim": 64, "txtdim": 64, "heads": 2, "kvheads": 2, "layers": 2, "channels": 16,
            "txtlayers": 2, "txtheads": 2, "txtkvheads": 2,
        },
        PICTURE_16,
        (7, 128),
    ),
    Family(
        "Lens",
        {
            "num_layers": 2, "attention_head_dim": 64, "num_attention_heads": 2, "enc_hidden_dim": 64,
            "multi_layer_encoder_feature": False, "selected_layer_index": (0,),
        },
        PICTURE_128,
        TEXT,
    ),
    Family(
        "Kandinsky5Image",
        {
            "in_text_dim": 64, "in_text_dim2": 64, "time_dim": 64, "model_dim": 128, "ff_dim": 256,
            "visual_embed_dim": 64, "num_text_blocks": 1, "num_visual_blocks": 2, "axes_dims": (16, 24, 24),
            "rope_scale_factor": (1.0, 1.0, 1.0),
        },
        PICTURE_16,
        TEXT,
        POOLED,
    ),
    Family(
        "ErnieImage",
        {
            "hidden_size": 128, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 256,
            "text_in_dim": 64, "rope_axes_dim": (16, 24, 24),
        },
        PICTURE_128,
        TEXT,
    ),
    Family(
        "PixelDiTT2I",
        PIXEL_DIT,
        PIXELS,
        TEXT,
    ),
    Family(
        "PiD",
        {
            **PIXEL_DIT,
            "lq_hidden_dim": 64, "lq_num_res_blocks": 1, "lq_latent_channels": 16,
        },
        PIXELS,
        TEXT,
        {"lq_latent": (1, 16, 1, 1), "degrade_sigma": (1,)},
    ),
)

FAMILIES = (*UNETS, *TRANSFORMERS)
