"""`python -m tests.bench.pressure_turn SHAPE BATCH STEPS PATH DEVICE WAY`: one process of `bench pressure`."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .comfyui import use_comfyui
from .pressure import Figures

_WARM_STEPS = 5
"""Steps left out of the rate: a stream learns during the first ones."""


def main() -> None:
    """Measures, and prints the figures as a line of JSON."""
    shape, batch, steps, path, device, way = sys.argv[1:]
    figures = measure(shape, int(batch), int(steps), Path(path), device, way)
    sys.stdout.write(json.dumps(dataclasses.asdict(figures)) + "\n")


def measure(shape: str, batch: int, steps: int, path: Path, device: str, way: str) -> Figures:
    """What this process, in which no model was loaded yet, takes for one way of sampling."""
    with _host(way) as load:
        return _measure(lambda: load(path, device), shape, batch, steps)


@contextlib.contextmanager
def _host(way: str) -> Iterator[Callable[[Path, str], Any]]:
    """ComfyUI set up for a way of sampling; answers what loads a diffusion model so that this way is taken."""
    if way == "dynamic":
        _before_torch()
    use_comfyui()
    import comfy.sd
    import folder_paths
    import pydantic  # noqa: F401 - as ComfyUI's server has by then

    from . import stream_turns

    def core(path: Path, device: str) -> Any:
        return comfy.sd.load_diffusion_model(str(path))

    def ours(path: Path, device: str) -> Any:
        from xpu_utils.host.inventory import placement_for
        from xpu_utils.host.loading.load import load_diffusion_model

        folder_paths.add_model_folder_path("diffusion_models", str(path.parent))
        return load_diffusion_model(path.name, "default", placement_for(device, "auto", "auto"))[0]

    if way == "dynamic":
        _dynamic_vram()
    if way != "intel":
        yield ours if way == "ours" else core
        return
    with stream_turns.core_configured(pinned=False, streams=0, non_blocking=False):
        yield core


def _before_torch() -> None:
    """As ComfyUI's main.py does first."""
    import comfy_aimdo.control

    comfy_aimdo.control.init()


def _dynamic_vram() -> None:
    """As ComfyUI's main.py does where its device can."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.control

    devices = comfy.model_management.get_all_torch_devices()
    if not comfy_aimdo.control.init_devices((device.index, 0) for device in devices):
        raise RuntimeError("bench pressure: DynamicVRAM does not work on this device.")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def _measure(load: Callable[[], Any], shape: str, batch: int, steps: int) -> Figures:
    import torch

    started = time.perf_counter()
    model = load()
    load_seconds = time.perf_counter() - started
    digest, stamps, retries = _sample(model, shape, batch, steps)
    peak_bytes = _statistics(model.load_device, "allocated_bytes.all.peak")
    first = stamps[0] - started
    rate = statistics.median(after - before for before, after in itertools.pairwise(stamps[_WARM_STEPS - 1 :]))
    del model
    _unload()
    started = time.perf_counter()
    _, stamps, _ = _sample(load(), shape, batch, 2)
    torch.accelerator.synchronize()
    return Figures(load_seconds, first, stamps[0] - started, rate, retries, peak_bytes, digest)


def _sample(model: Any, shape_name: str, batch: int, steps: int) -> tuple[str, list[float], int]:
    """Samples as the KSampler node does; answers the latent's digest, when each step ended, and retries after one."""
    import comfy.sample
    import torch

    from . import stream_turns

    shape = stream_turns.SHAPES[shape_name]
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn((batch, *shape.latent[1:]), generator=generator)
    context = torch.randn((2, 1, *shape.context), generator=generator)
    pooled = torch.randn((2, 1, shape.pooled), generator=generator)
    conditions = [[[context[index], {"pooled_output": pooled[index]}]] for index in range(2)]
    stamps: list[float] = []
    retries: list[int] = []

    def stamp(*_: Any) -> None:
        torch.accelerator.synchronize(model.load_device)
        stamps.append(time.perf_counter())
        retries.append(_statistics(model.load_device, "num_alloc_retries"))

    with torch.inference_mode():
        latent = comfy.sample.sample(
            *(model, noise, steps, shape.cfg, "euler", "normal", *conditions, torch.zeros_like(noise)),
            callback=stamp,
            disable_pbar=True,
            seed=1,
        )
    digest = hashlib.sha256(latent.float().cpu().numpy().tobytes()).hexdigest()[:12]
    return digest, stamps, retries[-1] - retries[0]


def _statistics(device: Any, name: str) -> int:
    import torch

    return int(torch.get_device_module(device.type).memory_stats(device).get(name, 0))


def _unload() -> None:
    import comfy.model_management as model_management

    model_management.unload_all_models()
    gc.collect()
    model_management.soft_empty_cache()


if __name__ == "__main__":
    main()
