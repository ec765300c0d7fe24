"""What the CPU benchmark makes of its samples: medians, ratios, the distance to the floor, a table and a chart."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

import psutil

from tests.harness.hosts import host_path, host_version
from xpu_utils.bench.chart import bar_chart
from xpu_utils.cpu.capabilities import capabilities
from xpu_utils.cpu.plan import CpuPlan

from .cpu_turns import MEASURES, OURS, STOCK, Samples, Shape

_CHARTED = {"step": "s/step", "decode": "VAE decode", "first_step": "load to first step"}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a shape's work amounts to."""

    weights: int
    """Number of weights in the checkpoint."""
    step_tflop: float
    """One step: both halves of the guidance."""


def machine(plan: CpuPlan, ceilings: Mapping[str, float], threads: int | None) -> dict[str, Any]:
    """What a reader needs to know of the machine to believe the figures."""
    found = capabilities()
    return {
        "cpu": found.name,
        "instructions": found.instructions,
        "masks": found.masks,
        "physical_cores": found.physical_cores,
        "threads": threads or plan.threads,
        "torch": found.torch_version,
        "comfyui": host_version(host_path()),
        "load_average": psutil.getloadavg(),
        "plan": {"precision": plan.precision, "channels_last": plan.channels_last, "linear": plan.onednn_linear},
        "gemm_gflops_per_core": dict(ceilings),
    }


def summary(shape: Shape, samples: Samples, work: Work, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Medians and minima, ratios against ours, memory against the weights, and the distance to the floor.

    The floor is the work of a step at the speed of the fastest products, in whichever format that is.
    """
    variants = {
        name: {
            measure: {"median": statistics.median(values), "min": min(values), "count": len(values)}
            for measure, values in measures.items()
            if values
        }
        for name, measures in samples.items()
    }
    ours = variants[OURS.name]
    floor = work.step_tflop * 1e3 / max(machine["gemm_gflops_per_core"].values())
    return {
        "shape": dataclasses.asdict(shape),
        "work": dataclasses.asdict(work),
        "variants": variants,
        "ratio_to_ours": {
            name: {measure: figures[measure]["median"] / ours[measure]["median"] for measure in figures}
            for name, figures in variants.items()
        },
        "peak_over_weights": {
            name: _peak_over_weights(figures, work, name, machine) for name, figures in variants.items()
        },
        "floor_cpu_s_per_step": floor,
        "distance_to_floor": ours["step_cpu"]["median"] / floor,
        "clock_distance_to_floor": ours["step"]["median"] / (floor / machine["threads"]),
        "samples": samples,
    }


def _peak_over_weights(
    figures: Mapping[str, Mapping[str, float]], work: Work, name: str, machine: Mapping[str, Any]
) -> float:
    """Memory beyond the idle server's, over the weights in the format computed in: fp32 wherever it is not ours."""
    itemsize = 2 if name == OURS.name and machine["plan"]["precision"] != "fp32" else 4
    return (figures["peak"]["median"] - figures["idle"]["min"]) * 2**30 / (work.weights * itemsize)


def chart(report: Mapping[str, Any]) -> str:
    """Bars for each measure, relative to stock as it comes, with the seconds at their ends."""
    bars, labels = {}, {}
    for shape, figures in report["shapes"].items():
        for measure, title in _CHARTED.items():
            for name, measures in figures["variants"].items():
                row = f"{shape} {title}: {name}"
                bars[row] = measures[measure]["median"] / figures["variants"][STOCK.name][measure]["median"]
                labels[row] = f"{measures[measure]['median']:.2f} s"
    facts = report["machine"]
    return bar_chart(f"{facts['cpu']}, {facts['threads']} threads: time relative to stock", bars, labels=labels)


def table(report: Mapping[str, Any]) -> str:
    """The report as text: one line a measure, the ratio to ours in brackets."""
    facts = report["machine"]
    speeds = ", ".join(f"{name} {value:.0f} GFLOP/s" for name, value in facts["gemm_gflops_per_core"].items())
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, ComfyUI {facts['comfyui']}",
        f"matrix products reach {speeds} on one core",
    ]
    for name, figures in report["shapes"].items():
        lines += ["", *_shape_lines(name, figures)]
    return "\n".join(lines)


def _shape_lines(shape: str, report: Mapping[str, Any]) -> list[str]:
    names = list(report["variants"])
    size = report["shape"]["size"]
    lines = [f"{f'{shape}, {size}x{size}':26}" + "".join(f"{name:>24}" for name in names)]
    for measure, title in MEASURES.items():
        cells = []
        for name in names:
            figures, ratio = report["variants"][name][measure], report["ratio_to_ours"][name][measure]
            cells.append(f"{figures['median']:.2f} ({ratio:.2f}x)")
        lines.append(f"{title:26}" + "".join(f"{cell:>24}" for cell in cells))
    over = "".join(f"{report['peak_over_weights'][name]:>24.2f}" for name in names)
    lines.append(f"{'peak over weights':26}{over}")
    lines.append(
        f"floor {report['floor_cpu_s_per_step']:.2f} CPU seconds a step: ours takes {report['distance_to_floor']:.2f} "
        f"times that in CPU seconds, {report['clock_distance_to_floor']:.2f} times on the clock"
    )
    for name, figures in report.get("calls", {}).items():
        lines.append(f"one call, {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return lines
