"""`python -m tests.bench pressure`: models on a card most of whose memory another process really holds.

Each way of sampling has a process of its own and meets the same: a file in the page cache, and so many gigabytes free.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xpu_utils.machine.devices import Device

from .accelerator import NoAcceleratorError, add_option, chosen

WAYS = ("ours", "dynamic", "pinned", "intel")
"""This pack, and what ComfyUI does by itself: DynamicVRAM, page-locked memory, and as on Intel."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one process has measured, in seconds, bytes and numbers of calls."""

    load_seconds: float
    first_step_seconds: float
    """From the loader to the end of the first step."""
    second_start_seconds: float
    """The same for the second model of the process, the first one being dropped."""
    seconds_per_step: float
    retries: int
    """How often the allocator had to give memory back in order to go on, after the first step."""
    peak_bytes: int
    digest: str
    """Of the latent: equal ones are equal bit for bit."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds this measurement to the command's."""
    parser = subparsers.add_parser("pressure", help="from the loader to the steps, on a card that is really full")
    add_option(parser)
    parser.add_argument("--shape", default="sdxl", help="as `bench stream` has them")
    parser.add_argument("--free", type=float, nargs="+", default=[4.0], metavar="GB", help="what is left free")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:3])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1, help="rounds in which the ways take turns")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file is written")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Measures; answers 2 where there is no accelerator, and the table."""
    try:
        device = chosen("pressure", arguments.device)
    except NoAcceleratorError as error:
        return 2, str(error)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "diffusion_models" / "model.safetensors"
        path.parent.mkdir()
        _child("tests.bench.pressure_file", arguments.shape, str(path), device.id)
        measured = _measure(arguments, path, device)
    if arguments.json:
        rows = [{"free_gb": free, "way": way, **figures} for (free, way), figures in _plain(measured)]
        arguments.json.write_text(json.dumps(rows, indent=2))
    return 0, as_text(arguments.shape, arguments.batch, device, measured)


Measured = dict[tuple[float, str], list[Figures]]


def _measure(arguments: argparse.Namespace, path: Path, device: Device) -> Measured:
    measured: Measured = {(free, way): [] for free in arguments.free for way in arguments.ways}
    turns = [*measured] * arguments.rounds
    for free, way in tqdm(turns, unit="process"):
        with _full_but_for(int(free * 1e9), device):
            turn = (arguments.shape, str(arguments.batch), str(arguments.steps), str(path), device.id, way)
            with contextlib.suppress(subprocess.CalledProcessError):  # its row says so
                line = _child("tests.bench.pressure_turn", *turn).splitlines()[-1]
                measured[free, way].append(Figures(**json.loads(line)))
                tqdm.write(_line(free, way, measured[free, way][-1:]))  # a run that is stopped has shown these
    return measured


def _child(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextlib.contextmanager
def _full_but_for(free_bytes: int, device: Device) -> Iterator[None]:
    """Has another process hold the device's memory, for the block."""
    command = [sys.executable, "-m", "tests.bench.pressure_holder", device.id, str(free_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        if not holder.stdout.readline():
            raise RuntimeError(f"bench pressure: nobody could hold the memory of {device.id} but for {free_bytes} B.")
        yield
        holder.stdin.close()


def _plain(measured: Measured) -> Iterator[tuple[tuple[float, str], dict[str, Any]]]:
    for key, rounds in measured.items():
        for figures in rounds:
            yield key, dataclasses.asdict(figures)


def as_text(shape: str, batch: int, device: Device, measured: Measured) -> str:
    """A table of medians."""
    names = ("load s", "to 1st step", "2nd start", "s/step", "retries", "peak GB")
    lines = [
        f"{shape}, batch {batch}, on {device.name}, another process holding its memory but for what is free",
        f"{'free GB':>8} {'way':>8} " + " ".join(f"{name:>12}" for name in names),
    ]
    lines += [_line(free, way, rounds) for (free, way), rounds in measured.items()]
    return "\n".join(lines)


def _line(free: float, way: str, rounds: Sequence[Figures]) -> str:
    return f"{free:8.1f} {way:>8} {_row(rounds) if rounds else 'failed'}"


def _row(rounds: Sequence[Figures]) -> str:
    medians = {
        name: statistics.median(getattr(figures, name) for figures in rounds)
        for name in ("load_seconds", "first_step_seconds", "second_start_seconds", "seconds_per_step", "retries")
    }
    peak = max(figures.peak_bytes for figures in rounds) / 1e9
    return " ".join(f"{value:12.3f}" for value in (*medians.values(), peak))
