"""`python -m xpu_utils bench load`: a safetensors file to a device, page cache cold and warm.

With ComfyUI (COMFYUI_PATH) the file is a diffusion model, and loading it until it is ready to sample is measured too.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from tqdm import tqdm

from ..machine.devices import Device, find_devices
from ..weights.fill import THREADS, load_safetensors
from ..weights.to_device import CHUNK_BYTES
from .comfyui import use_comfyui

_LAYER = ((1280, 1280), (10240, 1280), (1280, 5120), (1280,), (1280,))
"""Weights as in a transformer block of SDXL."""


Load = Callable[[], dict[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True)
class Figures:
    """One way of loading."""

    name: str
    cold_seconds: float | None
    """With the file out of the page cache; None where the system cannot drop it."""
    warm_seconds: float
    equal: bool


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("load", help="load a safetensors file to a device, cold and warm")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"), help="default: COMFYUI_PATH")
    parser.add_argument("--layout", default="sdxl-unet", help="what is generated with ComfyUI; 5.1 GB")
    parser.add_argument("--gigabytes", type=float, default=5.1, help="size of the file generated without ComfyUI")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    inventory = find_devices()
    device = inventory.best if arguments.device == "auto" else inventory.find(arguments.device)
    if device is None:
        return 2, f"bench load: {arguments.device} is not on this machine, see `devices`."
    if arguments.comfyui is not None and not use_comfyui(arguments.comfyui):
        return 2, f"bench load: {arguments.comfyui} holds no ComfyUI, set COMFYUI_PATH or --comfyui to its folder."
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.comfyui is None:
            path = write_random(Path(folder) / "model.safetensors", device, int(arguments.gigabytes * 1e9))
            figures = measure(path, device, arguments.rounds)
        else:
            figures = measure_to_ready(Path(folder), arguments.layout, device, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(entry) for entry in figures], indent=2))
    lines = [f"a file to {device.name}, torch {torch.__version__}"]
    lines += [
        f"{entry.name:34} cold {'-' if entry.cold_seconds is None else f'{entry.cold_seconds:.2f}':>6} s"
        f"  warm {entry.warm_seconds:7.3f} s  {'equal' if entry.equal else 'NOT EQUAL'}"
        for entry in figures
    ]
    return int(any(not entry.equal for entry in figures)), "\n".join(lines)


def write_random(path: Path, device: Device, size_bytes: int) -> Path:
    """Writes a file of random fp16 weights."""
    tensors: dict[str, torch.Tensor] = {}
    written = 0
    while written < size_bytes:
        for shape in _LAYER:
            tensor = torch.randn(shape, device=device.torch_device, dtype=torch.float16).cpu()
            tensors[f"block.{len(tensors)}.weight"] = tensor
            written += tensor.nbytes
    safetensors.torch.save_file(tensors, path)
    return path


def measure_to_ready(folder: Path, layout: str, device: Device, rounds: int) -> list[Figures]:
    """What `measure` does and ComfyUI's loader and ours, on a model of a real layout."""
    from ..host import load_bench

    path = load_bench.write(folder, layout)
    ways = load_bench.ways(path, device.torch_device)
    for load in ways.values():  # imports, kernels and the self-test, once
        load()
        load_bench.unload()
    return measure(path, device, rounds, more=ways, after=load_bench.unload)


def measure(
    path: Path,
    device: Device,
    rounds: int,
    *,
    more: Mapping[str, Load] | None = None,
    after: Callable[[], None] = lambda: None,
) -> list[Figures]:
    """Every way of loading, taking turns.

    Args:
        more: further ways.
        after: called, untimed, when what a way has loaded may go.
    """
    name = str(device.torch_device)
    ways: dict[str, Load] = {
        "reading alone, 1 thread": lambda: _read(path, 1),
        f"reading alone, {THREADS} threads": lambda: _read(path, THREADS),
        "core (map, then move each tensor)": lambda: {
            key: value.to(name) for key, value in safetensors.torch.load_file(path).items()
        },
        f"safetensors, device={name}": lambda: safetensors.torch.load_file(path, device=name),
        "ours": lambda: load_safetensors(path, device.torch_device),
        **(more or {}),
    }
    expected = _sample(path)
    cold: dict[str, list[float]] = {way: [] for way in ways}
    warm: dict[str, list[float]] = {way: [] for way in ways}
    equal = dict.fromkeys(ways, True)
    with tqdm(total=rounds * len(ways), unit="way") as bar:
        for way, load in [*ways.items()] * rounds:
            bar.set_postfix_str(way)
            if _drop_page_cache(path):
                cold[way].append(_timed(load, device)[0])
                after()
            _timed(load, device)
            after()
            seconds, tensors = _timed(load, device)
            warm[way].append(seconds)
            equal[way] &= not tensors or all(torch.equal(tensors[key].cpu(), value) for key, value in expected.items())
            del tensors
            after()
            bar.update()
    return [
        Figures(way, statistics.median(cold[way]) if cold[way] else None, statistics.median(warm[way]), equal[way])
        for way in ways
    ]


def _sample(path: Path) -> dict[str, torch.Tensor]:
    """A few of the file's tensors, to compare with."""
    with safetensors.safe_open(path, "pt") as file:
        names = sorted(file.keys())
        return {name: file.get_tensor(name) for name in names[:: max(1, len(names) // 16)]}


def _timed(load: Load, device: Device) -> tuple[float, dict[str, torch.Tensor]]:
    started = time.perf_counter()
    tensors = load()
    if device.type != "cpu":
        torch.accelerator.synchronize(device.torch_device)
    return time.perf_counter() - started, tensors


def _read(path: Path, threads: int) -> dict[str, torch.Tensor]:
    """Reads the file and forgets it: the floor."""
    buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    for _ in range(threads):
        buffers.put(bytearray(CHUNK_BYTES))

    def read(start: int) -> None:
        buffer = buffers.get()
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            file.readinto(buffer)
        buffers.put(buffer)

    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        list(executor.map(read, range(0, path.stat().st_size, CHUNK_BYTES)))
    return {}


def _drop_page_cache(path: Path) -> bool:
    """Asks the system to forget the file's pages; False where it has no such call."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
