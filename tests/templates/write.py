"""Writes tiny model files: `python -m tests.templates.write HOST FOLDER NAME...`, once for each ComfyUI."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

from tests.families import controls, vaes
from tests.families.family import build, configured, fill, marked
from tests.harness.in_process import enter
from tests.harness.synthetic import write_model

from .models import CHECKPOINTS, CONTROLS, ENCODERS, FILES, MODELS, UPSCALER, VISIONS
from .tiny import VAES, mark, narrow, tiny_models

Weights = dict[str, torch.Tensor]


def main() -> None:
    host, folder, *names = sys.argv[1:]
    sys.path.insert(0, host)
    from comfy.cli_args import args

    args.cpu = True  # before the host asks for a GPU
    enter(host)
    made = {
        "diffusion_models": _model,
        "text_encoders": _encoder,
        "vae": _vae,
        "checkpoints": _checkpoint,
        "clip_vision": _vision,
        "controlnet": _control,
    }
    with torch.no_grad(), tiny_models():
        for kind, make in made.items():
            for name in sorted({stands for _, stands in FILES[kind]}):
                if name in names:
                    _write(Path(folder) / kind / f"{name}.safetensors", make)
                    if make is _model:
                        _write(Path(folder) / "loras" / f"{name}.safetensors", _lora)
    if UPSCALER in names:
        write_model(UPSCALER, Path(folder))


def _write(file: Path, make: Callable[[str], Weights]) -> None:
    try:
        weights = _stored(make(file.stem))
    except Exception as error:  # noqa: BLE001 - whatever a host lacks of it
        print(f"{file.parent.name}: no {file.stem} on this host: {error!r}"[:300], flush=True)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, file)


def _stored(weights: Mapping[str, Any]) -> Weights:
    tensors = {key: weight for key, weight in weights.items() if isinstance(weight, torch.Tensor)}
    return {
        key: (w.to(torch.bfloat16) if w.is_floating_point() else w).clone().contiguous() for key, w in tensors.items()
    }


def _model(name: str) -> Weights:
    model: Any = build(MODELS[name])
    beside = {key: torch.randn(shape) * 0.05 for key, shape in MODELS[name].weights.items()}
    return {**model.diffusion_model.state_dict(), **beside, **mark(name)}


def _lora(name: str) -> Weights:
    """Of rank 2, on the first layer that can have one."""
    weights = build(MODELS[name]).diffusion_model.state_dict()
    key, weight = next((key, weight) for key, weight in weights.items() if key.endswith("weight") and weight.ndim == 2)
    layer = f"diffusion_model.{key.removesuffix('.weight')}"
    return {f"{layer}.lora_up.weight": torch.randn(len(weight), 2), f"{layer}.lora_down.weight": weight[:2] * 0.1}


def _vae(name: str) -> Weights:
    return {**vaes.load(VAES[name]).first_stage_model.state_dict(), **mark(name)}


def _encoder(name: str) -> Weights:
    import comfy.sd
    from comfy.sd1_clip import SDClipModel

    told = ENCODERS[name]
    own = {told.tokens: TOKENS[told.tokens]()} if told.tokens else {}
    files = [mark(file) for file in told.beside] + [{**mark(name), **own}]
    with marked(), mock.patch.object(comfy.sd.CLIP, "load_sd", return_value=([], [])):
        clip = comfy.sd.load_text_encoder_state_dicts(files, clip_type=comfy.sd.CLIPType[told.asked])
    encoders = [module for module in clip.cond_stage_model.modules() if isinstance(module, SDClipModel)]
    return {**fill(encoders[-1].transformer).state_dict(), **mark(name), **own}


def _checkpoint(name: str) -> Weights:
    import comfy.sd

    told, config = CHECKPOINTS[name], configured(MODELS[name].name, MODELS[name].network)
    texts = {
        f"text_encoders.{place}.transformer.{key}": weight
        for place, file in told.encoders.items()
        for key, weight in _encoder(file).items()
    }
    model = {f"model.diffusion_model.{key}": weight for key, weight in _model(name).items()}
    vae_prefix = config.vae_key_prefix[0]
    vae = {f"{vae_prefix}{key}": weight for key, weight in _vae(told.vae).items()}
    with narrow(), marked():
        clip = comfy.sd.CLIP(config.clip_target(state_dict=texts), tokenizer_data={"spiece_model": _spiece()})
    fill(clip.cond_stage_model)
    return {**model, **vae, **config.process_clip_state_dict_for_saving(clip.get_sd())}


def _control(name: str) -> Weights:
    return {**controls.network_of(CONTROLS[name]).state_dict(), **mark(name)}


def _vision(name: str) -> Weights:
    import comfy.clip_vision

    config, last_layer = VISIONS[name]
    with narrow(), marked():
        made = comfy.clip_vision.ClipVisionModel(str(Path(comfy.clip_vision.__file__).with_name(config)))
    told = {f"vision_model.encoder.layers.{last_layer}.layer_norm1.weight": torch.zeros(1)}  # how many a real one has
    return {**fill(made.model).state_dict(), **told, **mark(name)}


def _spiece() -> torch.Tensor:
    """A vocabulary of a sentence."""
    import sentencepiece

    model = io.BytesIO()
    sentences = ["a lighthouse at dusk, the sea below it and a small boat that comes home"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=48,
        hard_vocab_limit=False,
        byte_fallback=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=3,
        minloglevel=2,
    )
    return torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)


def _tekken() -> torch.Tensor:
    """A vocabulary of single bytes."""
    special = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", *(f"<special_{rank}>" for rank in range(5, 11)), "<pad>")
    told = {
        "config": {"default_num_special_tokens": len(special), "default_vocab_size": 256 + len(special)},
        "vocab": [{"rank": rank, "token_bytes": base64.b64encode(bytes([rank])).decode()} for rank in range(256)],
        "special_tokens": [{"rank": rank, "token_str": text} for rank, text in enumerate(special)],
    }
    return torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8)


TOKENS: Mapping[str, Callable[[], torch.Tensor]] = {"spiece_model": _spiece, "tekken_model": _tekken}

if __name__ == "__main__":
    main()
