"""`python -m tests.bench cpu`: ComfyUI as it comes, with its best flags, with OpenVINO and with this pack.

The same graph runs through real servers, one for each variant, in turns: a drift of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.harness.hosts import ROOT, host_environment
from xpu_utils.cpu.measure import gemm_gflops
from xpu_utils.cpu.planning import cpu_plan

from .cpu_report import Work, chart, machine, summary, table
from .cpu_turns import FULL_SHAPES, SHAPES, Shape, checkpoint, measure, variants_for

CEILINGS = (("fp32", torch.float32), ("bf16", torch.bfloat16))

EMULATED_GFLOPS = 10.0
"""Slower products than this are emulated: a large one would take minutes."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("cpu", help="stock ComfyUI, its best flags, OpenVINO and this pack, in turns")
    parser.add_argument("--shape", choices=[*sorted(SHAPES), "all"], default="sd15", help="all: sd15, sdxl and dit")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="turns of each variant that are measured")
    parser.add_argument("--steps", type=at_least(2), default=2, help="sampling steps of a prompt; the first loads")
    parser.add_argument(
        "--threads", type=at_least(1), help="of each server; 1 makes CPU seconds comparable on a busy machine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw them as SVG there")
    parser.add_argument(
        "--calls",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also compare single model calls: their errors against fp32, and OpenVINO's",
    )
    parser.set_defaults(run=run)


def at_least(smallest: int) -> Any:
    """An argument's type: a whole number from `smallest` on."""

    def number(text: str) -> int:
        if not text.isdigit() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {smallest} on")
        return int(text)

    return number


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Measures, writes what was asked for after each part, and answers the table."""
    torch.set_num_threads(1)
    ceilings = {precision: ceiling_gflops(dtype) for precision, dtype in CEILINGS}
    plan = cpu_plan()  # measured now where it is not known: no server is to pay for it
    report: dict[str, Any] = {"machine": machine(plan, ceilings, arguments.threads), "shapes": {}}
    for name in FULL_SHAPES if arguments.shape == "all" else (arguments.shape,):
        shape, variants = SHAPES[name], variants_for(ceilings)
        work = Work(**model_calls(shape, ["--work"]))
        samples = measure(variants, shape, rounds=arguments.rounds, steps=arguments.steps, threads=arguments.threads)
        report["shapes"][name] = summary(shape, samples, work, report["machine"])
        write(report, arguments)
        if arguments.calls:
            options = [] if arguments.threads is None else ["--threads", str(arguments.threads)]
            report["shapes"][name]["calls"] = model_calls(shape, options)
            write(report, arguments)
    return 0, table(report)


def write(report: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Writes the report as it is so far: what was measured survives a failure of what comes next."""
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2), encoding="utf-8")
    if arguments.chart:
        arguments.chart.write_text(chart(report), encoding="utf-8")


def ceiling_gflops(dtype: torch.dtype) -> float:
    """What a matrix product reaches on this thread."""
    small = gemm_gflops(dtype, size=256)
    return small if small < EMULATED_GFLOPS else gemm_gflops(dtype, size=2048)


def model_calls(shape: Shape, options: list[str]) -> dict[str, Any]:
    """What `tests/bench/cpu_calls.py` answers, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "calls.json"
        command = [sys.executable, "-m", "tests.bench.cpu_calls", str(checkpoint(shape)), str(file)]
        command += ["--size", str(shape.size), *options]
        subprocess.run(command, check=True, env=host_environment(), cwd=ROOT)
        return dict(json.loads(file.read_text(encoding="utf-8")))
