"""Patchers around a small SD1.5-like model of random weights, and how they stream."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests import xpu_sim
from tests.harness.hosts import SITE, host_path

DEVICE = torch.device("xpu:0")
HOST = torch.device("cpu")
CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": (1, 2),
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": 768,
    "legacy": False,
    "use_temporal_attention": False,
}


@pytest.fixture(scope="session")
def comfy(machine: xpu_sim.Simulation) -> Any:
    """ComfyUI's packages, imported once the XPU is there."""
    shim = importlib.util.spec_from_file_location("site_shim", SITE / "sitecustomize.py")
    assert shim is not None
    assert shim.loader is not None
    shim.loader.exec_module(importlib.util.module_from_spec(shim))
    sys.path.append(str(host_path()))
    import comfy.lora
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    return comfy


@pytest.fixture
def build(comfy: Any) -> Callable[..., Any]:
    def build(weight_dtype: torch.dtype = torch.float32) -> Any:
        """A patcher around an SD1.5-like model of random weights, always the same ones."""
        config = comfy.supported_models.SD15(dict(CONFIG))
        config.set_inference_dtype(weight_dtype, None if weight_dtype == torch.float32 else torch.float32)
        model = config.get_model({}, device=HOST)
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            values = torch.randn(parameter.shape) * (parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1)
            parameter.data.copy_(values)
        return comfy.model_patcher.ModelPatcher(model, load_device=DEVICE, offload_device=HOST)

    return build


@pytest.fixture
def attach(comfy: Any) -> Callable[..., Any]:
    from xpu_utils.decision import streaming_for
    from xpu_utils.host import streaming
    from xpu_utils.host.inventory import host_inventory

    def attach(model: Any, resident: str = "auto", *, integrated: bool = False, **further: Any) -> Any:
        """A clone that streams as far as it can."""
        streamed = model.clone()
        device = host_inventory().find(str(model.load_device))
        assert device is not None
        device = dataclasses.replace(device, integrated=integrated)
        how = streaming_for(device, resident, dynamic=False, obstacle=streaming.obstacle(streamed))
        streaming.attach(streamed, how, **further)
        return streamed

    return attach


def step(patcher: Any, *, loaded: bool = False) -> torch.Tensor:
    """One model call as a sampler makes it."""
    import comfy.model_management

    if not loaded:
        comfy.model_management.load_models_gpu([patcher])
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 16, 16, generator=generator).to(DEVICE)
    context = torch.randn(2, 8, 768, generator=generator).to(DEVICE)
    options = {"wrappers": patcher.wrappers}
    with torch.inference_mode():
        return patcher.model.apply_model(
            x, torch.tensor([5.0, 5.0], device=DEVICE), c_crossattn=context, transformer_options=options
        ).cpu()


def steps(patcher: Any, count: int = 5) -> list[torch.Tensor]:
    results = [step(patcher)]
    return results + [step(patcher, loaded=True) for _ in range(count - 1)]


def stream_of(patcher: Any) -> Any:
    from xpu_utils.host import streaming

    return streaming.stream_of(patcher)


def unload(patcher: Any) -> None:
    import comfy.model_management

    comfy.model_management.unload_all_models()
    assert torch.xpu.memory_allocated(0) < 1 << 20


def lora(patcher: Any, seed: int) -> dict[str, Any]:
    """A LoRA on every attention query, as ComfyUI's loader would hand it over."""
    generator = torch.Generator().manual_seed(seed)
    patches = {}
    for key, value in patcher.model.state_dict().items():
        if key.endswith(("to_q.weight", "ff.net.2.weight")):
            difference = 0.1 * torch.randn(value.shape, generator=generator)
            patches[key] = ("diff", (difference,))
    return patches
