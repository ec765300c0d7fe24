"""`python -m tests.bench load`: a diffusion model's file to a device and ready to sample, page cache cold and warm."""

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
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from tqdm import tqdm

from tests.harness.filling import read_all
from xpu_utils.machine.devices import Device, find_devices
from xpu_utils.weights.fill import THREADS
from xpu_utils.weights.to_device import CHUNK_BYTES

from .comfyui import use_comfyui

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
    parser.add_argument("--layout", default="sdxl-unet", help="what is generated; 5.1 GB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    inventory = find_devices()
    device = inventory.best if arguments.device == "auto" else inventory.find(arguments.device)
    if device is None:
        return 2, f"bench load: {arguments.device} is not on this machine, see `python -m xpu_utils devices`."
    use_comfyui()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(Path(folder), arguments.layout, device, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(entry) for entry in figures], indent=2))
    lines = [f"a file to {device.name}, torch {torch.__version__}"]
    lines += [
        f"{entry.name:34} cold {'-' if entry.cold_seconds is None else f'{entry.cold_seconds:.2f}':>6} s"
        f"  warm {entry.warm_seconds:7.3f} s  {'equal' if entry.equal else 'NOT EQUAL'}"
        for entry in figures
    ]
    return int(any(not entry.equal for entry in figures)), "\n".join(lines)


def measure(folder: Path, layout: str, device: Device, rounds: int) -> list[Figures]:
    """Every way of loading, taking turns: the file alone, and ComfyUI's loader and ours until the model is ready."""
    from . import loaders

    path = loaders.write(folder, layout)
    to_ready = loaders.ways(path, device.torch_device)
    for load in to_ready.values():  # imports, kernels and the self-test, once
        load()
        loaders.unload()
    ways = {**of_the_file(path, device), **to_ready}
    expected = _sample(path)
    cold: dict[str, list[float]] = {way: [] for way in ways}
    warm: dict[str, list[float]] = {way: [] for way in ways}
    equal = dict.fromkeys(ways, True)
    with tqdm(total=rounds * len(ways), unit="way") as bar:
        for way, load in [*ways.items()] * rounds:
            bar.set_postfix_str(way)
            if _drop_page_cache(path):
                cold[way].append(_timed(load, device)[0])
                loaders.unload()
            _timed(load, device)
            loaders.unload()
            seconds, tensors = _timed(load, device)
            warm[way].append(seconds)
            equal[way] &= not tensors or all(torch.equal(tensors[key].cpu(), value) for key, value in expected.items())
            del tensors
            loaders.unload()
            bar.update()
    return [
        Figures(way, statistics.median(cold[way]) if cold[way] else None, statistics.median(warm[way]), equal[way])
        for way in ways
    ]


def of_the_file(path: Path, device: Device) -> dict[str, Load]:
    """Ways of having all tensors of a file on a device, and of only reading it."""
    name = str(device.torch_device)
    return {
        "reading alone, 1 thread": lambda: _read(path, 1),
        f"reading alone, {THREADS} threads": lambda: _read(path, THREADS),
        "core (map, then move each tensor)": lambda: {
            key: value.to(name) for key, value in safetensors.torch.load_file(path).items()
        },
        f"safetensors, device={name}": lambda: safetensors.torch.load_file(path, device=name),
        "ours": lambda: read_all(path, device.torch_device),
    }


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
