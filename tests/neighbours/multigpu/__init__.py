"""Stands in for MultiGPU: answers for ComfyUI's default devices, whatever they are, and emptying of caches.

`share_out` is what its first DisTorch node does: models that it has shared out are loaded by it.
"""

from __future__ import annotations

import gc
from typing import Any

import comfy.model_management as model_management
import torch
from comfy.model_patcher import ModelPatcher

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

current_device = torch.device("xpu:0")


def get_torch_device() -> torch.device:
    return current_device


def soft_empty_cache(force: bool = False) -> None:
    gc.collect()
    torch.xpu.empty_cache()


model_management.get_torch_device = model_management.text_encoder_device = get_torch_device
model_management.unet_offload_device = lambda: torch.device("cpu")
model_management.soft_empty_cache = soft_empty_cache


def share_out(patcher: Any) -> None:
    """Has a model's weights be loaded to several devices."""
    if not hasattr(ModelPatcher, "_distorch_patched"):
        stock = ModelPatcher.partially_load

        def partially_load(self: Any, device_to: Any, extra_memory: float = 0, *rest: Any, **keywords: Any) -> Any:
            if hasattr(self.model, "_distorch_allocation"):
                return 0
            return stock(self, device_to, extra_memory, *rest, **keywords)

        ModelPatcher.partially_load = partially_load
        ModelPatcher._distorch_patched = True
    patcher.model._distorch_allocation = "xpu:0,50%;cpu,50%"
