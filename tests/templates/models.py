"""Which tiny model stands for which file that templates name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.families import controls
from tests.families.controls import Control
from tests.families.family import Family
from tests.families.listing import MODELS as FAMILIES

_KNOWN = {family.name: family for family in FAMILIES}


def _as(name: str, **network: Any) -> Family:
    """A family whose network takes what the tiny text encoders answer."""
    return dataclasses.replace(_KNOWN[name], network={**_KNOWN[name].network, **network})


# fmt: off
MODELS: Mapping[str, Family] = {
    **_KNOWN,
    "SDXL": _as("SDXL", context_dim=128),
    "SD3": _as("SD3", adm_in_channels=128, pos_embed_max_size=64, num_patches=4096, context_embedder_config={
        "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}),
    "Flux-control": _as("Flux", in_channels=32),
    "Ovis": _as("Flux", vec_in_dim=None, context_in_dim=128, guidance_embed=False),
    "Flux2": _as("Flux2", context_in_dim=384),
    "LongCatImage": _as("LongCatImage", context_in_dim=128),
    "QwenImage": _as("QwenImage", joint_attention_dim=128),
    "MageFlow": _as("MageFlow", joint_attention_dim=128),
    "Omnigen2": _as("Omnigen2", text_feat_dim=128),
    "Boogu": _as("Boogu", instruction_feat_dim=128),
    "HiDream": _as("HiDream", caption_channels=[64, 128], text_emb_dim=128),
    "Lumina2": _as("Lumina2", cap_feat_dim=128),
    "ZImage": _as("ZImage", cap_feat_dim=128),
    "Kandinsky5": _as("Kandinsky5", in_text_dim=128),
    "Kandinsky5Image": _as("Kandinsky5Image", in_text_dim=128),
    "ErnieImage": _as("ErnieImage", text_in_dim=128),
    "Krea2": _as("Krea2", txtdim=128, txtlayers=12),
    "Ideogram4": _as("Ideogram4", llm_features_dim=1664),
    "JoyImage": _as("JoyImage", text_dim=128),
    "HunyuanVideo": _as("HunyuanVideo", context_in_dim=128),
    "HunyuanVideo15": _as("HunyuanVideo15", context_in_dim=128, vision_in_dim=1152),
    "MiniMaxH3": _as("MiniMaxH3", text_dim=128),
    "LotusD": _as("LotusD", context_dim=1024),  # its node has a prompt of its own
    "SeedVR2": _as("SeedVR2", txt_in_dim=5120),  # as is this one's
    "PiD": _as("PiD", txt_embed_dim=128),
    "PixelDiTT2I": _as("PixelDiTT2I", txt_embed_dim=128),
    "Anima": _as("Anima", crossattn_emb_channels=1024),
    "ACEStep": _as("ACEStep", lyric_encoder_vocab_size=6693),
    "ACEStep15": _as("ACEStep15", text_hidden_dim=1024),
    "Wan-36": _as("WAN21_T2V", in_dim=36),
    "Wan-52": _as("WAN21_T2V", in_dim=52),
}


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A file of one text encoder."""

    kind: str
    """The host's name of what it holds."""
    asked: str
    """The type of CLIP that is made of it."""
    beside: Sequence[str] = ()
    """What it is loaded with, before it."""
    tokens: str = ""
    """The key under which the file holds its own tokens."""


ENCODERS: Mapping[str, Encoder] = {
    "CLIP_L": Encoder("CLIP_L", "STABLE_DIFFUSION"),
    "CLIP_G": Encoder("CLIP_G", "STABLE_DIFFUSION"),
    "T5_XXL": Encoder("T5_XXL", "MOCHI"),
    "UMT5_XXL": Encoder("T5_XXL", "WAN", tokens="spiece_model"),
    "T5_BASE": Encoder("T5_BASE", "STABLE_AUDIO"),
    "LLAMA3_8": Encoder("LLAMA3_8", "HIDREAM"),
    "LLAVA_LLAMA3": Encoder("LLAMA3_8", "HUNYUAN_VIDEO", ("CLIP_L",)),
    "GEMMA_2_2B": Encoder("GEMMA_2_2B", "LUMINA2", tokens="spiece_model"),
    "GEMMA_3_12B": Encoder("GEMMA_3_12B", "LTXV", tokens="spiece_model"),
    "MISTRAL3_24B": Encoder("MISTRAL3_24B", "FLUX2", tokens="tekken_model"),
    "MINISTRAL_3_3B": Encoder("MINISTRAL_3_3B", "FLUX2", tokens="tekken_model"),
    "QWEN25_3B": Encoder("QWEN25_3B", "OMNIGEN2"),
    "QWEN25_7B": Encoder("QWEN25_7B", "QWEN_IMAGE"),
    "BYT5": Encoder("BYT5_SMALL_GLYPH", "HUNYUAN_IMAGE", ("QWEN25_7B",)),
    "QWEN3_06B": Encoder("QWEN3_06B", "STABLE_DIFFUSION"),
    "QWEN3_2B": Encoder("QWEN3_2B", "OVIS"),
    "QWEN3_4B": Encoder("QWEN3_4B", "LUMINA2"),
    "QWEN3_8B": Encoder("QWEN3_8B", "FLUX2"),
    "QWEN3VL_4B": Encoder("QWEN3VL_4B", "KREA2"),
    "QWEN3VL_8B": Encoder("QWEN3VL_8B", "IDEOGRAM4"),
    "QWEN3VL_32B": Encoder("QWEN3VL_32B", "MINIMAX"),
    "ACE_2B": Encoder("QWEN3_2B", "ACE", ("QWEN3_06B",)),
    "ACE_4B": Encoder("QWEN3_4B", "ACE", ("QWEN3_06B",)),
    "QWEN35_2B": Encoder("QWEN35_2B", "STABLE_DIFFUSION"),
}

VISIONS: Mapping[str, tuple[str, int]] = {
    "CLIP-vision-H": ("clip_vision_config_h.json", 30),
    "SigLIP": ("clip_vision_siglip_384.json", 22),
}
"""The host's configuration, and the last layer that it knows a file by."""

CONTROLS: Mapping[str, Control] = {
    control.name: dataclasses.replace(control, arguments={**control.arguments, **widths})
    for control in controls.FAMILIES
    for name, widths in (
        ("ControlNet-SD35", {"adm_in_channels": 128}),
        ("ControlNet-Qwen", {"joint_attention_dim": 128}),
        ("ControlNet-Qwen-Fun", {}),
    )
    if control.name == name
}
UPSCALER = "upscaler-2x"
FILES: Mapping[str, Sequence[tuple[str, str]]] = {
    "checkpoints": (
        (r"sd_xl_refiner", "SDXLRefiner"),
        (r"sd_xl", "SDXL"),
        (r"sd3\.5", "SD3"),
        (r"flux1-schnell", "FluxSchnell"),
        (r"flux1-dev", "Flux"),
        (r"NetaYume", "Lumina2"),
        (r"ltx-video", "LTXV"),
        (r"ace_step_v1_", "ACEStep"),
        (r"v1-5|512-inpainting|dreamshaper", "SD15"),
    ),
    "diffusion_models": (
        (r"^pid_", "PiD"),
        (r"chroma-radiance", "ChromaRadiance"),
        (r"Chroma1", "Chroma"),
        (r"flux.?1-fill|flux\.1-fill", "FluxInpaint"),
        (r"flux1-(canny|depth)", "Flux-control"),
        (r"flux1-schnell", "FluxSchnell"),
        (r"flux1", "Flux"),
        (r"flux2|flux-2", "Flux2"),
        (r"FireRed|qwen_image_(edit|25|fp8|layered)", "QwenImage"),
        (r"omnigen2", "Omnigen2"),
        (r"hidream_[ie]1", "HiDream"),
        (r"z_image", "ZImage"),
        (r"ovis", "Ovis"),
        (r"longcat", "LongCatImage"),
        (r"lotus", "LotusD"),
        (r"kandinsky5lite_t2i", "Kandinsky5Image"),
        (r"kandinsky5", "Kandinsky5"),
        (r"ernie-image", "ErnieImage"),
        (r"krea2", "Krea2"),
        (r"ideogram4", "Ideogram4"),
        (r"joyai", "JoyImage"),
        (r"boogu", "Boogu"),
        (r"mage_flow", "MageFlow"),
        (r"anima", "Anima"),
        (r"pixeldit", "PixelDiTT2I"),
        (r"causal_forcing", "WAN21_CausalAR_T2V"),
        (r"wan_animate_2", "WAN_Animate2"),
        (r"SCAIL_2", "WAN21_SCAIL2"),
        (r"dancer", "WAN22_WanDancer"),
        (r"humo", "WAN21_HuMo"),
        (r"s2v", "WAN22_S2V"),
        (r"vace", "WAN21_Vace"),
        (r"wan2\.2_fun_camera", "WAN22_Camera"),
        (r"fun_camera", "WAN21_Camera"),
        (r"wan2\.2_fun_control_h|wan2\.2_fun_control_l", "Wan-52"),
        (r"wan2\.1_fun_control", "WAN21_FunControl2V"),
        (r"wan2\.2_(i2v|fun_inpaint)_(high|low)", "Wan-36"),
        (r"wan2\.2_ti2v", "WAN22_T2V"),
        (r"(?i)wan2.1.*(i2v|flf2v|fun_inp|ati)|WanMove|chrono_edit", "WAN21_I2V"),
        (r"(?i)wan2.[12]_t2v|bernini", "WAN21_T2V"),
        (r"hunyuan_video_t2v", "HunyuanVideo"),
        (r"hunyuanvideo1\.5|capybara", "HunyuanVideo15"),
        (r"acestep_v1\.5", "ACEStep15"),
        (r"seedvr2", "SeedVR2"),
        (r"minimax_h3|fasth3", "MiniMaxH3"),
    ),
    "text_encoders": (
        (r"clip_l", "CLIP_L"),
        (r"clip_g", "CLIP_G"),
        (r"umt5_xxl", "UMT5_XXL"),
        (r"t5xxl", "T5_XXL"),
        (r"t5-base", "T5_BASE"),
        (r"llava_llama3", "LLAVA_LLAMA3"),
        (r"llama", "LLAMA3_8"),
        (r"gemma_2_2b", "GEMMA_2_2B"),
        (r"gemma_3_12", "GEMMA_3_12B"),
        (r"mistral_3_small", "MISTRAL3_24B"),
        (r"ministral-3-3b|ernie-image-prompt", "MINISTRAL_3_3B"),
        (r"qwen_2\.5_vl_7b", "QWEN25_7B"),
        (r"qwen_2\.5_vl", "QWEN25_3B"),
        (r"byt5", "BYT5"),
        (r"qwen_(3_06b|0\.6b)", "QWEN3_06B"),
        (r"qwen_1\.7b", "ACE_2B"),
        (r"qwen_4b_ace", "ACE_4B"),
        (r"ovis", "QWEN3_2B"),
        (r"qwen_3_4b", "QWEN3_4B"),
        (r"qwen_3_8b", "QWEN3_8B"),
        (r"qwen3vl_4b", "QWEN3VL_4B"),
        (r"qwen3vl_8b", "QWEN3VL_8B"),
        (r"qwen3vl_32b", "QWEN3VL_32B"),
        (r"qwen3\.5_2b", "QWEN35_2B"),
    ),
    "vae": (
        (r"^ae\.|z_image", "VAE-Flux"),
        (r"flux2-vae|full_encoder", "VAE-Flux2"),
        (r"vae-ft-mse|sdxl", "VAE-SD"),
        (r"wan2\.2_vae", "VAE-Wan22"),
        (r"(?i)wan_?2.1_vae|qwen_image_(layered_)?vae|wan_alpha", "VAE-Wan21"),
        (r"hunyuan_video_vae", "VAE-HunyuanVideo"),
        (r"hunyuanvideo15_vae", "VAE-HunyuanVideo15"),
        (r"mage_flow_vae", "VAE-Mage"),
        (r"minimax_h3_audio", "VAE-MiniMaxH3-sound"),
        (r"minimax_h3_video", "VAE-MiniMaxH3"),
        (r"seedvr2", "VAE-SeedVR2"),
        (r"cogvideox", "VAE-CogVideoX"),
        (r"ace_1\.5", "VAE-Oobleck"),
    ),
    "controlnet": (
        (r"sd3\.5", "ControlNet-SD35"),
        (r"Qwen.*-Fun", "ControlNet-Qwen-Fun"),
        (r"Qwen.*Union", "ControlNet-Qwen"),
    ),
    "upscale_models": ((r"RealESRGAN", UPSCALER),),
    "clip_vision": ((r"clip_vision_h", "CLIP-vision-H"), (r"sigclip", "SigLIP")),
}
"""By the folder of models: what names of files look like, and what stands for them, the first that fits."""



@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds beside its model."""

    vae: str
    encoders: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Those by which the host tells which text encoders there are, by the name that their keys begin with."""


CHECKPOINTS: Mapping[str, Checkpoint] = {
    "SD15": Checkpoint("VAE-SD"),
    "SDXL": Checkpoint("VAE-SD"),
    "SDXLRefiner": Checkpoint("VAE-SD"),
    "SD3": Checkpoint("VAE-Flux", {"clip_l": "CLIP_L", "clip_g": "CLIP_G"}),
    "Flux": Checkpoint("VAE-Flux", {"t5xxl": "T5_XXL"}),
    "FluxSchnell": Checkpoint("VAE-Flux", {"t5xxl": "T5_XXL"}),
    "Lumina2": Checkpoint("VAE-Flux", {"gemma2_2b": "GEMMA_2_2B"}),
    "LTXV": Checkpoint("VAE-LTXV", {"t5xxl": "T5_XXL"}),
    "ACEStep": Checkpoint("VAE-ACEStep"),
}


def stands_for(folder: str, file: str) -> str | None:
    """What stands for a file; None where nothing does."""
    return next((name for pattern, name in FILES.get(folder, ()) if re.search(pattern, file)), None)
