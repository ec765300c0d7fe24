"""What `bench load` measures with ComfyUI: from a file to a MODEL that is ready on its device."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management as model_management
import comfy.sd
import folder_paths
import torch

from tests.harness.synthetic import LAYOUTS, write_model
from xpu_utils.host.inventory import placement_for
from xpu_utils.host.loading.load import load_diffusion_model
from xpu_utils.residency import ALL

Load = Callable[[], dict[str, torch.Tensor]]


def write(models: Path, layout: str) -> Path:
    """Writes a diffusion model of random weights below a models folder, for ComfyUI to find."""
    folder_paths.add_model_folder_path(LAYOUTS[layout][0], str(models / LAYOUTS[layout][0]))
    return write_model(layout, models)


def ways(path: Path, device: torch.device) -> dict[str, Load]:
    """ComfyUI's loader and ours, each followed by the loading to the device that precedes sampling."""

    def core() -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            model = comfy.sd.load_diffusion_model(str(path))
            model_management.load_models_gpu([model], force_full_load=True)
            return _as_in_the_file(model)

    def ours() -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            model, _ = load_diffusion_model(path.name, "default", placement_for(str(device), "auto", ALL))
            model_management.load_models_gpu([model])
            return _as_in_the_file(model)

    return {"ComfyUI's loader, to ready": core, "XPU Nodes' loader, to ready": ours}


def _as_in_the_file(model: Any) -> dict[str, torch.Tensor]:
    return {f"model.{name}": weight for name, weight in model.model.state_dict().items()}


def unload() -> None:
    """Gives back what a way has loaded."""
    model_management.unload_all_models()
    gc.collect()
    model_management.soft_empty_cache()
