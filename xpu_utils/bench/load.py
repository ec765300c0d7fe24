"""`python -m xpu_utils bench load`: reading a safetensors file to a device, page cache cold and warm."""

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

from ..devices import Device, find_devices
from ..loading import CHUNK_BYTES, THREADS, load_safetensors

_LAYER = ((1280, 1280), (10240, 1280), (1280, 5120), (1280,), (1280,))
"""Weights as in a transformer block of SDXL."""


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
    parser.add_argument("--gigabytes", type=float, default=5.1, help="size of the generated file")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    inventory = find_devices()
    device = inventory.best if arguments.device == "auto" else inventory.find(arguments.device)
    if device is None:
        return 2, f"bench load: {arguments.device} is not on this machine, see `devices`."
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "model.safetensors"
        expected = write_random(path, device, int(arguments.gigabytes * 1e9))
        figures = measure(path, device, expected, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(entry) for entry in figures], indent=2))
    lines = [f"{arguments.gigabytes:.2f} GB to {device.name}, torch {torch.__version__}"]
    lines += [
        f"{entry.name:34} cold {'-' if entry.cold_seconds is None else f'{entry.cold_seconds:.2f}':>6} s"
        f"  warm {entry.warm_seconds:7.3f} s  {'equal' if entry.equal else 'NOT EQUAL'}"
        for entry in figures
    ]
    return int(any(not entry.equal for entry in figures)), "\n".join(lines)


def write_random(path: Path, device: Device, size_bytes: int) -> dict[str, torch.Tensor]:
    """Writes a file of random fp16 weights and returns a few of them, to compare with."""
    tensors: dict[str, torch.Tensor] = {}
    written = 0
    while written < size_bytes:
        for shape in _LAYER:
            tensor = torch.randn(shape, device=device.torch_device, dtype=torch.float16).cpu()
            tensors[f"block.{len(tensors)}.weight"] = tensor
            written += tensor.nbytes
    safetensors.torch.save_file(tensors, path)
    return dict(list(tensors.items())[:: max(1, len(tensors) // 16)])


def measure(path: Path, device: Device, expected: dict[str, torch.Tensor], rounds: int) -> list[Figures]:
    """Every way of loading, taking turns."""
    name = str(device.torch_device)
    ways: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "reading alone, 1 thread": lambda: _read(path, 1),
        f"reading alone, {THREADS} threads": lambda: _read(path, THREADS),
        "core (map, then move each tensor)": lambda: {
            key: value.to(name) for key, value in safetensors.torch.load_file(path).items()
        },
        f"safetensors, device={name}": lambda: safetensors.torch.load_file(path, device=name),
        "ours": lambda: load_safetensors(path, device.torch_device),
    }
    cold: dict[str, list[float]] = {way: [] for way in ways}
    warm: dict[str, list[float]] = {way: [] for way in ways}
    equal = dict.fromkeys(ways, True)
    for _ in range(rounds):
        for way, load in ways.items():
            if _drop_page_cache(path):
                cold[way].append(_timed(load, device)[0])
            for _ in range(2):
                seconds, tensors = _timed(load, device)
            warm[way].append(seconds)
            equal[way] &= not tensors or all(torch.equal(tensors[key].cpu(), value) for key, value in expected.items())
            del tensors
    return [
        Figures(way, statistics.median(cold[way]) if cold[way] else None, statistics.median(warm[way]), equal[way])
        for way in ways
    ]


def _timed(load: Callable[[], dict[str, torch.Tensor]], device: Device) -> tuple[float, dict[str, torch.Tensor]]:
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
