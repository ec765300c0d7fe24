"""`python -m tests.bench stream`: models larger than the device, streamed by us and offloaded by ComfyUI."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from xpu_utils.machine.devices import Device

from .accelerator import NoAcceleratorError, add_option, chosen
from .comfyui import use_comfyui
from .link import host_to_device_bytes_per_s

if TYPE_CHECKING:
    from .stream_turns import Sampled


@dataclasses.dataclass(frozen=True)
class Figures:
    """One variant's figures."""

    name: str
    ours: bool
    seconds_per_step: float
    best_seconds_per_step: float
    """The smallest round: what a busy machine disturbs least."""
    floor_seconds: float
    """The larger of the best all-resident time and the time the link needs for what is not resident."""
    load_seconds: float
    peak_bytes: int
    above_resident_bytes: int
    """Peak less the resident weights and the activations, which are the all-resident peak less all weights."""
    equal: bool
    """Whether the latent equals the all-resident one bit for bit."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What was measured of one shape on one device."""

    shape: str
    device: str
    torch: str
    model_bytes: int
    pinned_bytes_per_s: float
    pageable_bytes_per_s: float
    figures: tuple[Figures, ...]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("stream", help="sample models whose weights do not all fit")
    add_option(parser)
    parser.add_argument("--shape", action="append", help="sdxl, flux-fp8, flux-bf16 or tiny; sdxl if none is named")
    parser.add_argument("--steps", type=int, default=14, help="sampling steps a round, the first five not timed")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which the variants take turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    try:
        device = chosen("stream", arguments.device)
    except NoAcceleratorError as error:
        return 2, str(error)
    use_comfyui()
    reports = [measure(device, shape, arguments.steps, arguments.rounds) for shape in arguments.shape or ["sdxl"]]
    if arguments.json:
        arguments.json.write_text(json.dumps([dataclasses.asdict(report) for report in reports], indent=2))
    failed = any(not figures.equal for report in reports for figures in report.figures if figures.ours)
    return int(failed), "\n\n".join(as_text(report) for report in reports)


def measure(device: Device, shape: str, steps: int, rounds: int) -> Report:
    """Measures all variants of one shape."""
    from . import stream_turns

    rate = host_to_device_bytes_per_s(device.torch_device, pinned=True)
    pageable = host_to_device_bytes_per_s(device.torch_device, pinned=False)
    model_bytes, sampled = stream_turns.measure(
        stream_turns.SHAPES[shape], device.torch_device, steps=steps, rounds=rounds
    )
    figures = tuple(_figures(entry, sampled[0], model_bytes, rate) for entry in sampled)
    return Report(shape, device.name, torch.__version__, model_bytes, rate, pageable, figures)


def _figures(sampled: Sampled, stock: Sampled, model_bytes: int, rate: float) -> Figures:
    share = 1.0 if sampled.variant.share is None else sampled.variant.share
    activation_bytes = stock.peak_bytes - model_bytes
    return Figures(
        name=sampled.variant.name,
        ours=sampled.variant.resident is not None,
        seconds_per_step=sampled.seconds_per_step,
        best_seconds_per_step=min(sampled.seconds),
        floor_seconds=max(min(stock.seconds), (1 - share) * model_bytes / rate),
        load_seconds=min(sampled.load_seconds),
        peak_bytes=sampled.peak_bytes,
        above_resident_bytes=sampled.peak_bytes - int(share * model_bytes) - activation_bytes,
        equal=sampled.equal,
    )


def as_text(report: Report) -> str:
    """A table."""
    lines = [
        f"{report.shape} ({report.model_bytes / 1e9:.2f} GB) on {report.device}, torch {report.torch}; host to device "
        f"{report.pinned_bytes_per_s / 1e9:.1f} GB/s pinned, {report.pageable_bytes_per_s / 1e9:.1f} GB/s pageable",
        f"{'':30} {'s/step':>8} {'best':>8} {'/floor':>7} {'load s':>7} {'peak GB':>8} {'above GB':>9}  equal",
    ]
    lines += [
        f"{entry.name:30} {entry.seconds_per_step:8.4f} {entry.best_seconds_per_step:8.4f} "
        f"{entry.best_seconds_per_step / entry.floor_seconds:7.3f} {entry.load_seconds:7.2f} "
        f"{entry.peak_bytes / 1e9:8.3f} {entry.above_resident_bytes / 1e9:9.3f}  {'yes' if entry.equal else 'NO'}"
        for entry in report.figures
    ]
    return "\n".join(lines)
