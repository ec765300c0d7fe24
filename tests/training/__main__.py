"""`python -m tests.training`: trains the tiny checkpoint anew and writes `weights/`; one CUDA GPU, under 20 minutes."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.harness.hosts import host_path

from . import train
from .judge import named
from .subjects import SUBJECTS, find_font
from .text_encoder import frozen_weights

WEIGHTS = Path(__file__).with_name("weights")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", type=Path, help="NotoColorEmoji.ttf, where it is not installed")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, nargs=3, default=(4000, 10000, 800), metavar=("VAE", "NETWORK", "JUDGE"))
    chosen = parser.parse_args()
    sys.path.insert(0, str(host_path()))
    from comfy.cli_args import args

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.cpu = device.type == "cpu"
    began = time.monotonic()
    pictures = train.renderings(chosen.font or find_font(), device, seed=chosen.seed)
    texts = _texts(device)
    say = lambda what: print(f"{time.monotonic() - began:.0f} s: {what}", flush=True)  # noqa: E731
    say(f"{len(SUBJECTS)} subjects rendered")
    vae_steps, network_steps, judge_steps = chosen.steps
    judge, judge_loss = train.train_judge(pictures, steps=judge_steps, seed=chosen.seed)
    say(f"judge, loss {judge_loss:.4f}")
    vae, vae_loss = train.train_autoencoder(pictures, steps=vae_steps, seed=chosen.seed)
    latents = train.latents_of(vae, pictures)
    say(f"autoencoder, loss {vae_loss:.4f}, latents of mean {latents.mean():.3f}, deviation {latents.std():.3f}")
    network, network_loss = train.train_transformer(latents, texts, steps=network_steps, seed=chosen.seed)
    say(f"transformer, loss {network_loss:.4f}")
    drawn = train.draw(network, vae, texts, seed=chosen.seed)
    told = named(drawn.cpu(), judge.cpu().state_dict())
    right = sum(name == subject for name, subject in zip(told, SUBJECTS, strict=True))
    say(f"{right} of {len(SUBJECTS)} named by the judge")
    chosen.out.mkdir(parents=True, exist_ok=True)
    files = {
        "emoji": dict(train.kept({"model.diffusion_model.": network, "first_stage_model.": vae})),
        "judge": dict(train.kept({"": judge})),
    }
    for name, weights in files.items():
        save_file(weights, chosen.out / f"{name}.safetensors")
    report = {
        "seed": chosen.seed,
        "steps": list(chosen.steps),
        "loss": {"autoencoder": vae_loss, "transformer": network_loss, "judge": judge_loss},
        "seconds": round(time.monotonic() - began),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "named": right,
        "subjects": len(SUBJECTS),
        "wrong": {s: t for t, s in zip(told, SUBJECTS, strict=True) if t != s},
        "sha256": {name: _sha256(chosen.out / f"{name}.safetensors") for name in files},
    }
    (chosen.out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _sheet(drawn).save(chosen.out / "sheet.png")
    return 0


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _texts(device: torch.device) -> train.Texts:
    from comfy.text_encoders.sd3_clip import SD3ClipModel, SD3Tokenizer

    clip = SD3ClipModel(clip_l=True, clip_g=False, t5=False, dtype=torch.float32, device=device).to(device)
    shapes = {key: tuple(weight.shape) for key, weight in clip.clip_l.transformer.state_dict().items()}
    del shapes["text_projection.weight"]
    clip.clip_l.transformer.load_state_dict(dict(frozen_weights(shapes)), strict=False)
    with torch.inference_mode():
        return train.encode_texts(clip, SD3Tokenizer(), device)


def _sheet(pictures: torch.Tensor, columns: int = 16) -> Any:
    from PIL import Image

    small = torch.nn.functional.interpolate(pictures.cpu(), (96, 96), mode="area")
    rows = -(-len(small) // columns)
    sheet = Image.new("RGB", (96 * columns, 96 * rows), "white")
    for index, picture in enumerate(small):
        image = Image.fromarray((picture.permute(1, 2, 0) * 255).byte().numpy())
        sheet.paste(image, (index % columns * 96, index // columns * 96))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
