"""Families that make sound and solids, and those of the host that no sampler node samples."""

from __future__ import annotations

from .family import Family
from .images import TEXT

# fmt: off
EMBEDDER = {
    "embedding.0.weights": (128,),
    "embedding.1.weight": (768, 257),
    "embedding.1.bias": (768,),
}
"""StableAudio's embedding of a number of seconds."""
EXPO = {"weight": (768, 256), "bias": (768,)}
SECONDS = "conditioner.conditioners.seconds_{}.embedder."

HUNYUAN_3D = {
    "in_channels": 64, "context_in_dim": 64, "hidden_size": 128, "num_heads": 2, "depth": 2,
    "depth_single_blocks": 2, "qkv_bias": True, "guidance_embed": False,
}

FAMILIES = (
    Family(
        "StableAudio",
        {
            "io_channels": 64, "embed_dim": 128, "cond_token_dim": 768, "global_cond_dim": 1536, "depth": 2,
            "num_heads": 2, "project_cond_tokens": True,
        },
        (1, 64, 32),
        (7, 768),
        weights={
            f"{SECONDS.format(end)}{name}": shape for end in ("start", "total") for name, shape in EMBEDDER.items()
        },
    ),
    Family(
        "StableAudio3",
        {
            "io_channels": 256, "embed_dim": 128, "cond_token_dim": 768, "global_cond_dim": 768, "depth": 2,
            "num_heads": 2, "project_cond_tokens": True, "local_add_cond_dim": 257, "global_cond_type": "adaLN",
            "timestep_features_type": "expo",
        },
        (1, 256, 32),
        (7, 768),
        weights={f"{SECONDS.format('total')}embedding.1.{name}": shape for name, shape in EXPO.items()},
    ),
    Family(
        "ACEStep",
        {
            "in_channels": 8, "num_layers": 2, "inner_dim": 128, "attention_head_dim": 64,
            "num_attention_heads": 2, "mlp_ratio": 2.5, "text_embedding_dim": 64, "max_position": 512,
            "ssl_latent_dims": [64, 64], "lyric_encoder_vocab_size": 100, "lyric_hidden_size": 1024,
            "max_width": 512, "ssl_encoder_depths": [2, 2],
        },
        (1, 8, 16, 16),
        TEXT,
        {"conditioning_lyrics": lambda draw: (draw(1, 9).abs() * 20).long().clamp(1, 99)},
    ),
    Family(
        "ACEStep15",
        {
            "hidden_size": 128, "text_hidden_dim": 64, "num_dit_layers": 2, "num_lyric_layers": 1,
            "num_timbre_layers": 1, "num_tokenizer_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 64,
            "intermediate_size": 256, "fsq_dim": 128, "encoder_hidden_size": 128,
            "encoder_intermediate_size": 256, "encoder_num_heads": 2,
        },
        (1, 64, 20),
        TEXT,
        {"conditioning_lyrics": (1, 5, 64)},
    ),
    Family(
        "TripoSplat",
        {
            "q_token_length": 16, "model_channels": 128, "cond_channels": 64, "num_blocks": 2,
            "num_refiner_blocks": 1, "cond2_channels": 128,
        },
        ((1, 16, 16), (1, 1, 5)),
        TEXT,
    ),
    Family("Hunyuan3Dv2", HUNYUAN_3D, (1, 64, 16), TEXT),
    Family("Hunyuan3Dv2mini", HUNYUAN_3D, (1, 64, 16), TEXT),
    Family(
        "Trellis2",
        {
            "resolution": 32, "model_channels": 64, "cond_channels": 64, "num_blocks": 2, "num_heads": 1,
            "init_txt_model": False, "txt_only": False,
        },
        (1, 32, 16, 16, 16),
        TEXT,
        {"embeds": (1, 7, 64)},
    ),
    Family(
        "Hunyuan3Dv2_1",
        {
            "in_channels": 64, "hidden_size": 128, "context_dim": 64, "depth": 4, "num_heads": 2,
            "num_moe_layers": 2, "num_experts": 4, "guidance_cond_proj_dim": None, "qkv_bias": False,
        },
        (1, 64, 16),
        TEXT,
    ),
)

NOT_SAMPLED = {
    "RT_DETR_v4": "a detector: its node calls it once",
    "SAM3": "a segmenter: its nodes call it once",
    "SAM31": "a segmenter: its nodes call it once",
    "DepthAnything3": "an estimator of depth: its node calls it once",
    "MiniMaxMusic3": "its class fixes its size, 2.4 billion parameters",
}
"""Classes of `comfy.supported_models` that are not sampled here, and why."""
