"""`python -m xpu_utils bench cpu`: ComfyUI as it comes, with its best flags, and with this pack, on one CPU.

The same graph runs through real servers, one for each variant, in turns: a drift of the machine meets all of them.
Run from the repository, whose tests bring the server harness and the generated checkpoints.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from ..cpu_measure import gemm_gflops
from .chart import bar_chart

CEILINGS = (("fp32", torch.float32), ("bf16", torch.bfloat16))
MEASURES = {
    "step": "s/step",
    "step_cpu": "CPU seconds a step",
    "decode": "VAE decode, s",
    "encode": "text encode, s",
    "first_step": "load to first step, s",
    "peak": "peak resident size, GiB",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run the graph."""

    name: str
    arguments: tuple[str, ...]
    ours: bool = False


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is computed: a generated checkpoint and a picture size."""

    layout: str
    size: int
    step_tflop: float | None = None
    """Work of one step (both halves of the guidance), where it is known."""
    alone: bool = False
    """Whether the weights leave no room for another server: every turn starts one of its own."""


STOCK = Variant("stock", ("--cpu",))
BEST = Variant("stock, best flags", ("--cpu", "--use-pytorch-cross-attention", "--bf16-vae"))
BEST_WITHOUT_BF16 = Variant(BEST.name, ("--cpu", "--use-pytorch-cross-attention"))
OURS = Variant("XPU Nodes", ("--cpu",), ours=True)

EMULATED_GFLOPS = 10.0
"""Slower products than this are emulated: a large one would take minutes."""

SHAPES = {
    "sd15": Shape("sd15", 512, 1.35),
    "sdxl": Shape("sdxl", 768, alone=True),
    "dit": Shape("sd3-small", 512),
    "tiny": Shape("sd15-tiny", 128),
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("cpu", help="stock ComfyUI, its best flags and this pack on the CPU, in turns")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="sd15")
    parser.add_argument("--rounds", type=int, default=3, help="turns each variant takes after the first prompt")
    parser.add_argument("--steps", type=int, default=2, help="sampling steps of a prompt")
    parser.add_argument(
        "--threads", type=int, help="threads of each server; 1 makes CPU seconds comparable on a busy machine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw s/step as SVG there")
    parser.add_argument("--calls", action="store_true", help="also compare single model calls: errors, and OpenVINO")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Measures, writes what was asked for, and answers the table."""
    shape = SHAPES[arguments.shape]
    torch.set_num_threads(1)
    ceilings = {precision: ceiling_gflops(dtype) for precision, dtype in CEILINGS}
    best = BEST if ceilings["bf16"] > ceilings["fp32"] else BEST_WITHOUT_BF16
    samples = measure(
        (STOCK, best, OURS), shape, rounds=arguments.rounds, steps=arguments.steps, threads=arguments.threads
    )
    report = summary(shape, samples, ceilings)
    if arguments.calls:
        report["calls"] = compare_calls(shape, arguments.threads)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if arguments.chart:
        bars = {name: figures["step"]["median"] for name, figures in report["variants"].items()}
        title = f"{shape.layout}, {shape.size}x{shape.size}: seconds for a sampling step on the CPU"
        arguments.chart.write_text(bar_chart(title, bars), encoding="utf-8")
    return 0, table(report)


Samples = dict[str, dict[str, list[float]]]
"""Variant name -> measure -> values."""


def ceiling_gflops(dtype: torch.dtype) -> float:
    """What a matrix product reaches on this thread."""
    small = gemm_gflops(dtype, size=256)
    return small if small < EMULATED_GFLOPS else gemm_gflops(dtype, size=2048)


def measure(variants: Sequence[Variant], shape: Shape, *, rounds: int, steps: int, threads: int | None) -> Samples:
    """Runs the variants in turns; the first turn loads, the others measure what is repeated."""
    samples: Samples = {variant.name: {name: [] for name in MEASURES} for variant in variants}
    with contextlib.ExitStack() as stack, tqdm(total=len(variants) * (rounds + 1), unit="prompt") as bar:
        servers = {} if shape.alone else {v: stack.enter_context(server(v, shape, threads)) for v in variants}
        for turn, variant in itertools.product(range(rounds + 1), variants):
            bar.set_postfix_str(variant.name)
            own = server(variant, shape, threads) if shape.alone else contextlib.nullcontext(servers[variant])
            with own as running:
                found = run_prompt(running, variant, graph(variant, shape, steps, turn))
            for name in measured(shape, turn):
                samples[variant.name][name] += found[name]
            bar.update()
    return samples


def run_prompt(running: Any, variant: Variant, workflow: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of each part of a prompt, and the server's peak memory after it."""
    clock = ProcessClock(running.process.pid)
    result = running.client.run(workflow, on_event=clock, timeout_s=3600)
    if result.error is not None:
        raise RuntimeError(f"bench cpu: {variant.name} failed: {result.message}")
    peak_gib = peak_bytes(running.process.pid) / 2**30
    return {**durations(result.events), "step_cpu": clock.between_steps(), "peak": [peak_gib]}


def measured(shape: Shape, turn: int) -> tuple[str, ...]:
    """What a turn measures: the first one loads, in the others each part is repeated; or every one loads."""
    if shape.alone:
        return "step", "step_cpu", "first_step", "peak"
    return ("step", "step_cpu", "decode", "encode", "peak") if turn else ("first_step",)


class ProcessClock:
    """CPU seconds that a server had used at each of its progress events; the time waiting for a core is not in them."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._marks: list[float] = []

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data.get("node") == "sampler":
            times = self._process.cpu_times()
            self._marks.append(times.user + times.system)

    def between_steps(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self._marks)]


@contextlib.contextmanager
def server(variant: Variant, shape: Shape, threads: int | None) -> Iterator[Any]:
    """A real server for a variant, without this pack for a stock one."""
    from tests.harness.models import ensure_models
    from tests.harness.server import running_server

    models = ensure_models(shape.layout)
    environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    packs: dict[str, Path] | None = None if variant.ours else {}
    with (
        tempfile.TemporaryDirectory() as base,
        running_server(
            Path(base),
            models=models,
            arguments=variant.arguments,
            packs=packs,
            environment=environment,
            steady=False,
        ) as running,
    ):
        yield running


def graph(variant: Variant, shape: Shape, steps: int, turn: int) -> dict[str, Any]:
    """Text to picture; each turn has its own seed and prompt, so that nothing comes from the host's cache."""
    from tests.harness.workflows import text_to_image, with_our_nodes

    latent = "EmptySD3LatentImage" if shape.layout.startswith("sd3") else "EmptyLatentImage"
    workflow = text_to_image(
        f"{shape.layout}.safetensors", size=shape.size, steps=steps, seed=100 + turn, latent=latent
    )
    workflow["positive"]["inputs"]["text"] = f"a lighthouse at dusk, take {turn}"
    return with_our_nodes(workflow, device="cpu") if variant.ours else workflow


def durations(events: tuple[tuple[float, str, dict[str, Any]], ...]) -> dict[str, list[float]]:
    """Seconds of each repeated part of a prompt, from the server's own events.

    A step is the time between two progress events; the first one also waits for the weights, so it is left out.
    """
    starts = [(when, data["node"]) for when, kind, data in events if kind == "executing"]
    ends = [*(when for when, _ in starts[1:]), events[-1][0]]
    nodes = {node: end - when for (when, node), end in zip(starts, ends, strict=True)}
    progress = [when for when, kind, data in events if kind == "progress" and data.get("node") == "sampler"]
    return {
        "step": [after - before for before, after in itertools.pairwise(progress)],
        "first_step": progress[:1],
        "decode": [nodes["decode"]],
        "encode": [nodes["positive"]],
    }


def peak_bytes(pid: int) -> float:
    """The most memory a process has had resident. The kernel keeps the figure on Linux; elsewhere psutil has it."""
    status = Path(f"/proc/{pid}/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) * 1024
    info = psutil.Process(pid).memory_info()
    return float(getattr(info, "peak_wset", info.rss))


def summary(shape: Shape, samples: Samples, ceilings: Mapping[str, float]) -> dict[str, Any]:
    """Medians and minima, ratios against ours, and the distance to what the matrix units could do."""
    variants = {
        name: {
            measure: {"median": statistics.median(values), "min": min(values), "count": len(values)}
            for measure, values in measures.items()
            if values
        }
        for name, measures in samples.items()
    }
    ours = variants[OURS.name]
    ratios = {
        name: {measure: figures[measure]["median"] / ours[measure]["median"] for measure in figures}
        for name, figures in variants.items()
    }
    report: dict[str, Any] = {
        "shape": dataclasses.asdict(shape),
        "gemm_gflops_per_core": dict(ceilings),
        "variants": variants,
        "ratio_to_ours": ratios,
    }
    if shape.step_tflop is not None:
        floor = shape.step_tflop * 1e3 / ceilings["bf16"]
        report["floor_cpu_s_per_step"] = floor
        report["distance_to_floor"] = ours["step_cpu"]["median"] / floor
    return report


def compare_calls(shape: Shape, threads: int | None) -> dict[str, Any]:
    """Single model calls in a process of their own: see `xpu_utils/host/cpu_calls.py`."""
    import subprocess
    import sys

    from tests.harness.hosts import host_environment, host_path
    from tests.harness.models import ensure_models

    environment = host_environment()
    checkpoint = ensure_models(shape.layout) / "checkpoints" / f"{shape.layout}.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calls.json"
        command = [sys.executable, "-m", "xpu_utils.host.cpu_calls", str(checkpoint), str(file)]
        options = ["--size", str(shape.size), *(["--threads", str(threads)] if threads else [])]
        subprocess.run([*command, *options], check=True, env=environment, cwd=host_path())
        return dict(json.loads(file.read_text(encoding="utf-8")))


def table(report: Mapping[str, Any]) -> str:
    """The report as text: one line a measure, the ratio to ours in brackets."""
    names = list(report["variants"])
    lines = [f"{'':26}" + "".join(f"{name:>24}" for name in names)]
    for measure, title in MEASURES.items():
        cells = []
        for name in names:
            figures = report["variants"][name].get(measure)
            ratio = report["ratio_to_ours"][name].get(measure, 1.0)
            cells.append(f"{figures['median']:.2f} ({ratio:.2f}x)" if figures else "-")
        lines.append(f"{title:26}" + "".join(f"{cell:>24}" for cell in cells))
    ceilings = ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in report["gemm_gflops_per_core"].items())
    lines.append(f"matrix products reach {ceilings} on one core")
    if "distance_to_floor" in report:
        floor, distance = report["floor_cpu_s_per_step"], report["distance_to_floor"]
        lines.append(f"bf16 floor {floor:.2f} CPU seconds a step, ours takes {distance:.2f} times that")
    for name, figures in report.get("calls", {}).items():
        lines.append(f"one call, {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return "\n".join(lines)
