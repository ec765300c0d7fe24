"""Files of the kinds that people post, several kinds in each, and those that nobody can load; see worker.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_detection
import comfy.utils
import folder_paths
import torch
from safetensors.torch import save_file

from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loaders
from xpu_utils.weights.check import CheckpointError

from . import odd_files
from .loading_cases import OWN
from .odd_files import PLACE, PREFIX, UNET, Weights, loras, loras_differ, models_differ

folder_paths.add_model_folder_path("upscale_models", str(OWN))


def case_files() -> dict[str, list[str]]:
    quantised, metadata = odd_files.quantised()
    weights = odd_files.without_prefix(odd_files.mixed(quantised))
    odd_files.write_with_an_odd_header(weights, OWN / "quantised.safetensors", metadata)
    odd_files.write_of_a_training_program(odd_files.scaled_fp8(), OWN / "lightning.ckpt")
    return models_differ(["quantised.safetensors", "lightning.ckpt"])


def case_loras() -> dict[str, Any]:
    """All kinds in one LoRA, which takes turns by layer."""
    kinds = loras()
    layers = sorted({name.split(".")[0] for name in kinds["LoHa"]})
    kind_of = {layer: list(kinds)[number % len(kinds)] for number, layer in enumerate(layers)}
    in_turn = {
        name: weight
        for kind, weights in kinds.items()
        for name, weight in weights.items()
        if kind_of.get(name.split(".")[0], "differences") == kind
    }
    return loras_differ({"of all kinds": in_turn})


def case_refused() -> dict[str, str]:
    """What is said of a file, by its name."""
    (OWN / "renamed.safetensors").write_bytes(b"GGUF\x03\0\0\0" + b"\0" * 64)
    (OWN / "json.safetensors").write_bytes(b'{"error":"Unauthorized","message":"The creator of this asset"}')
    (OWN / "xml.safetensors").write_bytes(b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')
    save_file(dict(list(UNET.items())[:40]), OWN / "half-00001-of-00002.safetensors")
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 3, 1)), str(OWN / "upscaler.pt"))
    odd_files.write_of_a_training_program({"weight": torch.ones(2)}, OWN / "unknown.ckpt", "nobody_knows_this")
    save_file(_as_in_diffusers(), OWN / "diffusers.safetensors")
    placement = placement_for(*PLACE)

    def said(load: Callable[[str], Any], name: str) -> str:
        try:
            load(name)
        except CheckpointError as error:
            return str(error)
        return ""

    model = ["renamed.safetensors", "json.safetensors", "xml.safetensors", "half-00001-of-00002.safetensors"]
    models = {
        name: said(lambda name: loaders.load_diffusion_model(name, "default", placement), name)
        for name in [*model, "diffusers.safetensors", "unknown.ckpt"]
    }
    return {**models, "upscaler.pt": said(lambda name: loaders.load_upscale_model(name, placement), "upscaler.pt")}


def _as_in_diffusers() -> Weights:
    """ComfyUI knows a model in their names by its exact shape, which is none of the harness' small ones."""
    config: Any = comfy.model_detection.detect_unet_config(UNET, PREFIX)
    table = comfy.utils.unet_to_diffusers(config)
    return {theirs: UNET[PREFIX + ours].clone() for theirs, ours in table.items() if PREFIX + ours in UNET}
