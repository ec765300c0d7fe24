"""Model files of the kinds that people post, made of the harness' small ones, and how they are compared."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import numpy
import torch
from safetensors.torch import load_file, save_file

from tests.harness.models import MODELS
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading import load as loaders

from .loading_cases import OWN, differences, tensors

Weights = dict[str, torch.Tensor]
PREFIX = "model.diffusion_model."
UNET = load_file(MODELS / "diffusion_models" / "sd15-tiny-unet.safetensors")
PLACE = ("xpu:0", "auto")
_CALLBACK = "pytorch_lightning.callbacks.model_checkpoint"
_NUMPY_1 = "numpy.core.multiarray"
_DIFFERENCES = 10
"""How many biases and norms a LoRA of differences changes."""


def without_prefix(weights: Weights) -> Weights:
    return {name.removeprefix(PREFIX): weight for name, weight in weights.items()}


def mixed(weights: Weights) -> Weights:
    """Weights in turn in four formats, but for those in fp8."""
    formats = (torch.float64, torch.float16, torch.float32, torch.bfloat16)
    return {
        name: weight if weight.element_size() == 1 else weight.to(formats[number % 4])
        for number, (name, weight) in enumerate(weights.items())
    }


def _quantised(scale: str) -> tuple[Weights, list[str]]:
    """Linear weights in fp8 with a scale each, and their layers."""
    weights, layers = dict(UNET), []
    for name, weight in UNET.items():
        if weight.dim() == 2 and name.endswith("weight") and ("attn" in name or "ff." in name):
            scale_of = weight.float().abs().max() / 400
            weights[name] = (weight.float() / scale_of).to(torch.float8_e4m3fn)
            weights[name.removesuffix("weight") + scale] = scale_of.reshape(())
            layers.append(name.removesuffix(".weight"))
    return weights, layers


def scaled_fp8() -> Weights:
    """As files with fp8 were before their metadata told of it."""
    mark = {f"{PREFIX}scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    return _quantised("scale_weight")[0] | mark


def quantised() -> tuple[Weights, dict[str, str]]:
    """As newer files are: each layer's format is in the metadata, which is the second answer."""
    weights, layers = _quantised("weight_scale")
    formats = {layer.removeprefix(PREFIX): {"format": "float8_e4m3fn"} for layer in layers}
    return weights, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": formats})}


def write_with_an_odd_header(weights: Weights, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Its length is no multiple of 8, as writers other than safetensors leave it."""
    save_file(weights, file, metadata=metadata)
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].rstrip(b" ")
    header += b" " * ((5 - len(header)) % 8)
    file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def write_of_a_training_program(weights: Weights, file: Path, module_name: str = _CALLBACK) -> None:
    """As Lightning wrote it with NumPy 1: a class and a number are beside the weights.

    Args:
        weights: the file's.
        file: where it is written.
        module_name: the class' module; ComfyUI's reader knows Lightning's.
    """
    kind = type("ModelCheckpoint", (), {"__module__": module_name})

    def scalar() -> None:
        """NumPy's own is found under another module's name since NumPy 2."""

    scalar.__module__, scalar.__qualname__ = _NUMPY_1, "scalar"
    number = type("Number", (), {"__reduce__": lambda _: (scalar, numpy.float64(1.5).__reduce__()[1])})
    content = {"global_step": 470000, "state_dict": weights, "callbacks": {kind: {"best": number()}}}
    with _modules({module_name: kind, _NUMPY_1: scalar}):
        torch.save(content, file)


@contextlib.contextmanager
def _modules(members: Mapping[str, Any]) -> Iterator[None]:
    """Modules of these names, each with a member, which are needed to write what refers to it."""
    modules = {name: types.ModuleType(name) for name in members}
    for name, member in members.items():
        setattr(modules[name], member.__name__, member)
    packages = {name.partition(".")[0]: types.ModuleType(name) for name in members}
    added = {name: module for name, module in packages.items() if name not in sys.modules} | modules
    before = {name: sys.modules[name] for name in added if name in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
        sys.modules.update(before)


def loras() -> Mapping[str, Weights]:
    """LoRAs of every kind for the same layers."""
    under = {f"lora_unet_{name.removeprefix(PREFIX).replace('.', '_')}": weight for name, weight in UNET.items()}
    plain = load_file(MODELS / "loras" / "lora-sd15-tiny.safetensors")
    dora, loha, lokr, full = dict(plain), {}, {}, {}
    for name in sorted({name.split(".")[0] for name in plain}):
        weight = under[f"{name}_weight"]
        rows, columns = weight.shape[:2]
        norm = weight.float().norm(dim=1, keepdim=True).half() * 1.1
        dora |= {f"{name}.dora_scale": norm, f"{name}.alpha": torch.tensor(2.0, dtype=torch.float64)}
        for half in ("hada_w1", "hada_w2"):
            loha |= {f"{name}.{half}_a": _random(rows, 4), f"{name}.{half}_b": _random(4, columns)}
        loha[f"{name}.alpha"] = torch.tensor(4)
        lokr |= {f"{name}.lokr_w1": _random(4, 4), f"{name}.lokr_w2_a": _random(rows // 4, 2)}
        lokr |= {f"{name}.lokr_w2_b": _random(2, columns // 4), f"{name}.alpha": torch.tensor(2.0)}
        full[f"{name}.diff"] = _random(rows, columns).bfloat16()
    for name in [name for name in under if name.endswith("_bias")][:_DIFFERENCES]:
        full[f"{name.removesuffix('_bias')}.diff_b"] = _random(*under[name].shape)
    for name in [name for name in under if "norm" in name and name.endswith("_weight")][:_DIFFERENCES]:
        full[f"{name.removesuffix('_weight')}.w_norm"] = _random(*under[name].shape)
    return {"DoRA": dora, "LoHa": loha, "LoKr": lokr, "differences": full}


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.1


def models_differ(names: Iterable[str]) -> dict[str, list[str]]:
    """What differs from the host's way, by diffusion model."""
    return differ(names, lambda name: tensors(_model(name).model))


def differ(names: Iterable[str], load: Callable[[str], Weights]) -> dict[str, list[str]]:
    """What differs from the host's way, by file; a file that was compared is removed."""
    found = {}
    for name in names:
        found[name] = differences(lambda name=name: load(name))  # type: ignore[misc]
        (OWN / name).unlink()
    return found


def _model(name: str) -> Any:
    return loaders.load_diffusion_model(name, "default", placement_for(*PLACE))[0]


def loras_differ(kinds: Mapping[str, Weights]) -> dict[str, Any]:
    """How many weights a LoRA changes, and what differs from the host's way then."""
    found: dict[str, Any] = {}
    for kind, weights in kinds.items():
        changed: list[int] = []

        def patched(lora: Weights = weights, changed: list[int] = changed) -> Weights:
            stock = _model("sd15-tiny-unet.safetensors")
            before = {name: weight.clone() for name, weight in tensors(stock.model).items()}
            model, _ = comfy.sd.load_lora_for_models(stock, None, lora, 1.0, 0.0)
            comfy.model_management.load_models_gpu([model], force_full_load=True)
            after = {name: weight.clone() for name, weight in tensors(model.model).items()}
            changed.append(sum(not torch.equal(after[name], before[name].to(after[name].device)) for name in after))
            return after

        differing = differences(patched)
        found[kind] = {"changed": changed, "differ": differing}
    return found
