"""Files of the kinds that people post, one kind at a time; see worker.py."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.harness.models import MODELS
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loaders

from . import odd_files
from .loading_cases import CHECKPOINT, OWN, tensors
from .odd_files import PLACE, UNET, Weights, differ, loras, loras_differ, models_differ

WHOLE = load_file(MODELS / "checkpoints" / CHECKPOINT)
VAE = load_file(MODELS / "vae" / "vae-sd15.safetensors")
_NOT_IN_DECODER = ("encoder", "quant_conv")


def case_files() -> dict[str, list[str]]:
    formats = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
    kinds: dict[str, Weights] = {
        **{kind: {name: weight.to(dtype) for name, weight in UNET.items()} for kind, dtype in formats.items()},
        "mixed": odd_files.mixed(UNET),
        "scaled": odd_files.scaled_fp8(),
        "no prefix": odd_files.without_prefix(UNET),
    }
    for kind, weights in kinds.items():
        save_file(weights, OWN / f"{kind}.safetensors")
    odd_files.write_with_an_odd_header(UNET, OWN / "odd header.safetensors")
    quantised, metadata = odd_files.quantised()
    save_file(quantised, OWN / "quantised.safetensors", metadata=metadata)
    torch.save(UNET, OWN / "pickle.pt")
    names = ["odd header.safetensors", "quantised.safetensors", "pickle.pt"]
    return models_differ([*(f"{kind}.safetensors" for kind in kinds), *names])


def case_checkpoints() -> dict[str, list[str]]:
    metadata = {"modelspec.thumbnail": "x" * 3_000_000, "ss_tag_frequency": "é" * 1000}
    save_file(_with_training_left_over(), OWN / "left-over.safetensors", metadata=metadata)
    odd_files.write_of_a_training_program(WHOLE, OWN / "lightning.ckpt")
    torch.save({"state_dict": WHOLE}, OWN / "old.ckpt", _use_new_zipfile_serialization=False)
    without = {"CLIP": "cond_stage_model.", "VAE": "first_stage_model.", "both": ("cond_stage_model.", "first_stage")}
    for part, start in without.items():
        kept = {name: weight for name, weight in WHOLE.items() if not name.startswith(start)}
        save_file(kept, OWN / f"without {part}.safetensors")

    def load(name: str) -> Weights:
        (model, clip, vae), _ = loaders.load_checkpoint(name, placement_for(*PLACE))
        modules = (model.model, getattr(clip, "cond_stage_model", None), getattr(vae, "first_stage_model", None))
        assert [part for part, module in zip(("CLIP", "VAE"), modules[1:], strict=True) if module is None] == [
            part for part in ("CLIP", "VAE") if f"without {part}" in name or "both" in name
        ]
        return tensors(*filter(None, modules))

    names = [
        "left-over.safetensors",
        "lightning.ckpt",
        "old.ckpt",
        *(f"without {part}.safetensors" for part in without),
    ]
    return differ(names, load)


def _with_training_left_over() -> Weights:
    average = {f"model_ema.{name.replace('.', '')}": weight.clone() for name, weight in list(WHOLE.items())[:30]}
    odd = {"model_ema.num_updates": torch.tensor(7), "betas": torch.zeros(1000, dtype=torch.float64)}
    return WHOLE | average | odd | {"empty": torch.zeros(0, 3), "loss.logvar": torch.tensor(0.0)}


def case_vaes() -> dict[str, list[str]]:
    decoder = {name: weight for name, weight in VAE.items() if not name.startswith(_NOT_IN_DECODER)}
    save_file({name: weight.bfloat16() for name, weight in VAE.items()}, OWN / "bf16.safetensors")
    save_file(decoder, OWN / "decoder.safetensors")
    torch.save({"state_dict": VAE, "epoch": 1}, OWN / "vae.pt")

    def load(name: str) -> Weights:
        found = tensors(loaders.load_vae(name, placement_for(*PLACE))[0].first_stage_model)
        absent = tuple(f"0.{part}" for part in _NOT_IN_DECODER) if name == "decoder.safetensors" else ()
        return {name: weight for name, weight in found.items() if not name.startswith(absent)}

    return differ(["bf16.safetensors", "decoder.safetensors", "vae.pt"], load)


def case_loras() -> dict[str, Any]:
    return loras_differ(loras())
