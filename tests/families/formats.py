"""A tiny SD3 in every storage format that the host loads, with and without a LoRA, by the host's real loader."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .family import SEED, Family, build, on_host, sampled
from .images import POOLED, SD3, TEXT
from .subject import Subject

Layer = dict[str, torch.Tensor]
"""What a file holds of one layer's weight, by the ends of the keys."""

WIDTH = 256
"""All formats divide it into groups."""
SHAPE: dict[str, Any] = {
    **SD3, "depth": WIDTH // 64,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": WIDTH}},
}  # fmt: skip
"""A detector reads all of it from the keys and shapes, on every host."""
SD3_256 = Family("SD3", SHAPE, (1, 16, 8, 8), TEXT, POOLED)
FP8 = torch.float8_e4m3fn


def _scaled(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.abs().amax() / torch.finfo(FP8).max
    return (weight / scale).to(FP8), scale


def _scaled_fp8(weight: torch.Tensor, *, inputs: bool) -> Layer:
    quantised, scale = _scaled(weight)
    layer = {"weight": quantised, "scale_weight": scale}
    return {**layer, "scale_input": torch.tensor(0.5)} if inputs else layer


def _mixed_fp8(weight: torch.Tensor, *, inputs: bool) -> Layer:
    quantised, scale = _scaled(weight)
    layer = {"weight": quantised, "weight_scale": scale}
    return {**layer, "input_scale": torch.tensor(0.5)} if inputs else layer


def _by_layout(weight: torch.Tensor, *, kind: str, **choices: Any) -> Layer:
    """As the host's own library quantises it, with what it writes beside the weight to know it again."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    tensor = QuantizedTensor.from_float(weight, QUANT_ALGOS[kind]["comfy_tensor_layout"], **choices)
    told = json.dumps({"format": kind, **choices}).encode()
    return {**tensor.state_dict("weight"), "comfy_quant": torch.tensor(list(told), dtype=torch.uint8)}


MARKER = {"scaled_fp8": torch.zeros(0, dtype=FP8)}
FORMATS: Mapping[str, tuple[str, Callable[[torch.Tensor], Layer], Mapping[str, torch.Tensor]]] = {
    "fp8": ("", lambda weight: {"weight": weight.to(FP8)}, {}),
    "scaled-fp8": ("", functools.partial(_scaled_fp8, inputs=False), MARKER),
    "scaled-fp8-inputs": ("", functools.partial(_scaled_fp8, inputs=True), MARKER),
    "mixed-fp8": ("float8_e4m3fn", functools.partial(_mixed_fp8, inputs=False), {}),
    "mixed-fp8-inputs": ("float8_e4m3fn", functools.partial(_mixed_fp8, inputs=True), {}),
    **{
        name: (kind, functools.partial(_by_layout, kind=kind, **choices), {})
        for name, kind, choices in (
            ("int8", "int8_tensorwise", {}),
            ("int8-convrot", "int8_tensorwise", {"convrot": True, "convrot_groupsize": 256, "per_channel": True}),
            ("w4a8", "asym_w4a8_int8", {}),
            ("w4a4", "convrot_w4a4", {}),
            ("nvfp4", "nvfp4", {}),
            ("mxfp8", "mxfp8", {}),
        )
    },
}
"""Name -> (the host's name for it where it must have one, a layer's weight in it, what else the file holds)."""


NAMES = tuple(f"{name}{end}" for name in FORMATS for end in ("", "+LoRA"))
"""Of the subjects."""


def subjects() -> Iterator[Subject]:
    """Those that the host knows."""
    import comfy.quant_ops

    known = getattr(comfy.quant_ops, "QUANT_ALGOS", {})
    for name, (kind, _, _) in FORMATS.items():
        if not kind or kind in known:
            for lora in (False, True):
                load = functools.partial(_load, name)
                work = functools.partial(sampled, SD3_256)
                named = f"{name}+LoRA" if lora else name
                yield Subject(named, load, work, lora=lora_of if lora else None)


def lora_of(patcher: Any) -> Any:
    """The patcher with a LoRA of rank 4 on two layers."""
    import comfy.sd

    generator = torch.Generator().manual_seed(SEED)
    lora: Layer = {}
    for layer in ("joint_blocks.0.x_block.mlp.fc1", "joint_blocks.1.context_block.attn.qkv"):
        rows = patcher.model.diffusion_model.get_submodule(layer).out_features
        lora[f"diffusion_model.{layer}.lora_up.weight"] = torch.randn(rows, 4, generator=generator) * 0.1
        lora[f"diffusion_model.{layer}.lora_down.weight"] = torch.randn(4, WIDTH, generator=generator) * 0.1
    patched, _ = comfy.sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
    return patched


def _load(name: str) -> Any:
    import comfy.sd

    from xpu_utils.host.inventory import as_default

    # Else older hosts compute a LoRA from another precision the second time, having noted the first one's.
    with tempfile.TemporaryDirectory() as folder, as_default(torch.device("cpu")):
        path = _write(name, Path(folder) / "model.safetensors")
        return on_host(comfy.sd.load_diffusion_model(str(path)).model)


def _write(name: str, path: Path) -> Path:
    _, layer_of, others = FORMATS[name]
    tensors: Layer = dict(others)
    layers: dict[str, Any] = {}
    model: Any = build(SD3_256)
    for key, weight in model.diffusion_model.state_dict().items():
        layer, _, end = key.rpartition(".")
        if "joint_blocks." in key and end == "weight" and weight.ndim == 2:
            tensors |= {f"{layer}.{part}": value.contiguous() for part, value in layer_of(weight).items()}
            layers[layer] = {"format": "float8_e4m3fn"}
        else:
            tensors[key] = weight
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})} if name.startswith("mixed") else {}
    save_file(tensors, path, metadata)
    return path
