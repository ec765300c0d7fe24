"""Families of text encoders, at a size that a CPU runs in a moment."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch

from .family import SEED, fill, marked
from .shrinking import Sizes, shrunk
from .subject import Subject

CLIP = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 4}
"""Of CLIP and BERT."""
T5 = {"d_model": 64, "d_ff": 128, "d_kv": 32, "num_heads": 2, "num_layers": 2, "vocab_size": 1024}
LANGUAGE = {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 2, "vocab_size": 1024}
"""Of language models; with fewer heads for keys where they have such, and as many layers as are asked for."""
LENGTH = 48
"""Tokens of a prompt: more than the templates that encoders cut off."""
END = 49407
"""The last token of OpenAI's CLIP, which tells where its summary is."""


@dataclasses.dataclass(frozen=True)
class Text:
    """One way in which `comfy.sd.load_text_encoder_state_dicts` makes encoders."""

    name: str
    kind: str
    """The class, or the function that answers one, as that function writes it."""
    keys: Sequence[str]
    """Under which the tokens are; none where they are the prompt by themselves."""
    choices: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What that function is told."""
    sizes: Sizes = dataclasses.field(default_factory=dict)
    beside: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What its tokenizer tells with the tokens."""


def subjects() -> Iterator[Subject]:
    """Those that the host knows."""
    known = kinds_of_the_host()
    for text in FAMILIES:
        if text.kind in known:
            yield Subject(text.name, functools.partial(load, text), functools.partial(encoded, text), "CLIP")


def load(text: Text) -> Any:
    """A CLIP of the host with random weights, which computes on the CPU in fp32."""
    import comfy.sd

    host = torch.device("cpu")
    made = functools.reduce(getattr, text.kind.split("."), comfy.sd)
    encoder: Any = made if inspect.isclass(made) else made(**text.choices)  # type: ignore[operator]
    target: Any = type("Target", (), {"clip": encoder, "params": {}, "tokenizer": mock.Mock})
    devices = dict.fromkeys(("load_device", "offload_device", "initial_device"), host)
    with shrunk(text.sizes), _small(), marked():
        clip = comfy.sd.CLIP(target, model_options={**devices, "dtype": torch.float32})
    fill(clip.cond_stage_model).eval().requires_grad_(False)
    return clip


def encoded(text: Text, clip: Any) -> torch.Tensor:
    """What it makes of a prompt, with all that it tells beside it, on the host."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(300, 900, (LENGTH,), generator=generator).tolist()
    tokens: Any = {key: [[(token, 1.0) for token in _ended(key, ids)]] for key in text.keys or ("",)}
    tokens = {**tokens, **text.beside} if text.keys else tokens[""]
    ((answer, told),) = clip.encode_from_tokens_scheduled(tokens)
    answers = [answer, *(value for value in told.values() if isinstance(value, torch.Tensor))]
    return torch.cat([value.to("cpu", torch.float32).flatten() for value in answers])


def _ended(key: str, ids: list[int]) -> list[int]:
    end = {"l": END, "g": END, "h": END, "hydit_clip": 102}.get(key)
    return ids if end is None else [*ids[:20], *[end] * 57]


@contextlib.contextmanager
def _small() -> Iterator[None]:
    """In the block, what encoders compute with is small, whatever its configuration says."""
    import comfy.clip_model
    import comfy.sd1_clip

    stock = comfy.sd1_clip.SDClipModel.__init__

    def made(self: Any, *arguments: Any, **keywords: Any) -> None:
        kind = keywords.get("model_class", comfy.clip_model.CLIPTextModel)
        layer = keywords.get("layer_idx") if keywords.get("layer") == "hidden" else keywords.get("layer")
        taps = layer if isinstance(layer, list) else [layer if isinstance(layer, int) else 1]
        depth = max(abs(tap) for tap in taps) + 2
        stock(self, *arguments, **{**keywords, "model_class": functools.partial(_network, kind, depth)})

    with mock.patch.object(comfy.sd1_clip.SDClipModel, "__init__", made):
        yield


def _network(kind: Callable[..., Any], depth: int, config: dict[str, Any], *rest: Any) -> Any:
    if "d_model" in config:
        return kind({**config, **T5}, *rest)
    if "hidden_size" in config and "vocab_size" in config:
        return kind({**config, **CLIP}, *rest)
    small = {**config, **LANGUAGE, "num_hidden_layers": depth}
    try:
        return kind({**small, "num_key_value_heads": 1}, *rest)
    except TypeError:
        return kind(small, *rest)


def kinds_of_the_host() -> set[str]:
    """The classes, and functions that answer one, that ComfyUI makes text encoders of."""
    import comfy.sd

    tree = ast.parse(inspect.getsource(comfy.sd.load_text_encoder_state_dicts))
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    values = [node.value for node in made if ast.unparse(node.targets[0]) == "clip_target.clip"]
    return {ast.unparse(value.func if isinstance(value, ast.Call) else value) for value in values}


# fmt: off
OF = "comfy.text_encoders."
VISION = {
    OF + "qwen_vl.Qwen2VLVisionTransformer": {
        "hidden_size": 64, "output_hidden_size": 128, "intermediate_size": 64, "num_heads": 2, "num_layers": 1,
    },
    OF + "qwen3vl.Qwen3VLVisionModel": {
        "config": {
            "hidden_size": 64, "intermediate_size": 64, "depth": 1, "num_heads": 2, "deepstack_visual_indexes": [0],
        },
    },
    "comfy.clip_model.CLIPVision": {
        "config_dict": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    },
    OF + "qwen35.Qwen35VisionModel": {
        "config": {"hidden_size": 64, "intermediate_size": 64, "depth": 1, "num_heads": 2},
    },
}

FAMILIES = (
    Text("CLIP-SD15", "sd1_clip.SD1ClipModel", ["l"]),
    Text("CLIP-SD2", OF + "sd2_clip.SD2ClipModel", ["h"]),
    Text("CLIP-SDXL", "sdxl_clip.SDXLClipModel", ["l", "g"]),
    Text("CLIP-SDXL-refiner", "sdxl_clip.SDXLRefinerClipModel", ["g"]),
    Text("CLIP-Stable-Cascade", "sdxl_clip.StableCascadeClipModel", ["g"]),
    Text("CLIP-SD3", OF + "sd3_clip.sd3_clip", ["l", "g", "t5xxl"], {"t5": False}),  # else as wide as the real T5
    Text("CLIP-HiDream", OF + "hidream.hidream_clip", ["l", "g", "t5xxl", "llama"]),
    Text("CLIP-LTXV", OF + "lt.ltxv_te", ["t5xxl"]),
    Text("CLIP-PixArt", OF + "pixart_t5.pixart_te", ["t5xxl"]),
    Text("CLIP-Wan", OF + "wan.te", ["umt5xxl"]),
    Text("CLIP-CogVideoX", OF + "cogvideo.cogvideo_te", ["t5xxl"]),
    Text("CLIP-Mochi", OF + "genmo.mochi_te", ["t5xxl"]),
    Text("CLIP-Cosmos", OF + "cosmos.te", ["t5xxl"]),
    Text("CLIP-AuraFlow", OF + "aura_t5.AuraT5Model", ["pile_t5xl"]),
    Text("CLIP-ACEStep", OF + "ace.AceT5Model", ["umt5base", "lyrics"]),
    Text("CLIP-StableAudio", OF + "sa_t5.SAT5Model", ["t5base"]),
    Text("CLIP-LTXAV", OF + "lt.ltxav_te", ["gemma3_12b"],
         sizes={**VISION, OF + "lt.LTXAVTEModel": {"video_projection_dim": 64, "audio_projection_dim": 64}}),
    Text("CLIP-Gemma3", OF + "lt.gemma3_te", [], sizes=VISION),
    Text("CLIP-PixelDiT", OF + "pixeldit.pixeldit_te", ["gemma2_2b"]),
    Text("CLIP-Lumina2", OF + "lumina2.te", ["gemma2_2b"]),
    Text("CLIP-Omnigen2", OF + "omnigen2.te", ["qwen25_3b"]),
    Text("CLIP-HunyuanImage", OF + "hunyuan_image.te", ["qwen25_7b", "byt5"], sizes=VISION),
    Text("CLIP-LongCat", OF + "longcat_image.te", ["qwen25_7b"], sizes=VISION),
    Text("CLIP-QwenImage", OF + "qwen_image.te", ["qwen25_7b"], sizes=VISION),
    Text("CLIP-Flux2", OF + "flux.flux2_te", ["mistral3_24b"]),
    Text("CLIP-Klein", OF + "flux.klein_te", ["qwen3_4b"]),
    Text("CLIP-ZImage", OF + "z_image.te", ["qwen3_4b"]),
    Text("CLIP-Ovis", OF + "ovis.te", ["qwen3_2b"]),
    Text("CLIP-Ideogram4", OF + "ideogram4.te", ["qwen3vl_8b"]),
    Text("CLIP-Ideogram4-vision", OF + "ideogram4.te_qwen3vl", ["qwen3vl_8b"], sizes=VISION),
    Text("CLIP-Jina", OF + "jina_clip_2.JinaClip2TextModelWrapper", ["jina_clip_2"]),
    Text("CLIP-Qwen35", OF + "qwen35.te", ["qwen35_2b"], sizes=VISION),
    Text("CLIP-Boogu", OF + "boogu.te", ["qwen3vl_8b"], sizes=VISION),
    Text("CLIP-Krea2", OF + "krea2.te", ["qwen3vl_4b"], sizes=VISION),
    Text("CLIP-MageFlow", OF + "mage_flow.te", ["qwen3vl_4b"], sizes=VISION),
    Text("CLIP-JoyImage", OF + "joyimage.te", ["qwen3vl_8b"], sizes=VISION),
    Text("CLIP-Qwen3VL", OF + "qwen3vl.te", ["qwen3vl_8b"], sizes=VISION),
    Text("CLIP-MiniMaxH3", OF + "minimax.te", ["qwen3vl_32b"], sizes=VISION),
    Text("CLIP-Anima", OF + "anima.te", ["qwen3_06b", "t5xxl"]),
    Text("CLIP-Ernie", OF + "ernie.te", ["ministral3_3b"]),
    Text("CLIP-HunyuanDiT", OF + "hydit.HyditModel", ["hydit_clip", "mt5xl"]),
    Text("CLIP-Flux", OF + "flux.flux_clip", ["l", "t5xxl"]),
    Text("CLIP-HunyuanVideo", OF + "hunyuan_video.hunyuan_video_clip", ["l", "llama"]),
    Text("CLIP-Kandinsky5", OF + "kandinsky5.te", ["l", "qwen25_7b"], sizes=VISION),
    Text("CLIP-NewBie", OF + "newbie.te", ["gemma", "jina"]),
    Text("CLIP-ACEStep15", OF + "ace15.te", ["qwen3_06b", "lyrics"],
         beside={"lm_metadata": {"generate_audio_codes": False}}),
)

NOT_ENCODED: dict[str, str] = {
    OF + "sa3.SAT5GemmaModel": "its class fixes its size, 282 million parameters",
    OF + "gemma4.gemma4_te": "its class fixes the size of its eyes and ears",
    OF + "gpt_oss.lens_te": "its layers have no weights before a file gives them some",
    OF + "minimax_music.MiniMaxMusic3TEModel": "its node has it write a song, token for token",
}
"""What `comfy.sd` makes encoders of that are not checked, and why."""
