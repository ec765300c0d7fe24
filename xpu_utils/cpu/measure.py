"""The measurement behind a CPU plan: a few seconds of products, convolutions and attention in every format.

One thread is measured, by its own CPU time: other programs on the machine then disturb the comparison least, and what
is fastest for one core is so for several, as long as each has enough to do (see `plan.WORK_PER_THREAD`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..machine import timing
from ..machine.timing import GAIN_NEEDED, fastest
from ..precision import dtype_of
from . import onednn
from .attention import AttentionPath, attention
from .capabilities import Capabilities, usable_cores
from .layers import channels_last, convolution_as_product
from .plan import LARGEST, AttentionRule, CpuPlan

# (queries, keys measured, rule holds for keys up to)
_LENGTHS = ((1024, 77, 128), (384, 384, 512), (1024, 1024, 2048), (1024, 4096, LARGEST))
# (head dim measured, rule holds up to)
_HEAD_DIMS = ((40, 48), (64, 96), (128, 144), (160, LARGEST))


_CONTIGUOUS_GAIN = 1.5
"""How much faster one contiguous convolution must be than one channels last, below fp32: a network lays the former
out again and again. Where a busy machine had measured 1.12, a call of SD1.5 took 2.7 times as long by it."""

_CLOCK = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-6 else time.perf_counter


def _measured(found: Capabilities) -> CpuPlan:
    candidates = ["fp32", "bf16", *(["fp16"] if {"avx512_fp16", "amx_fp16"} & set(found.instructions) else [])]
    speeds = {f"gemm {precision}": gemm_gflops(dtype_of(precision) or torch.float32) for precision in candidates}
    # What is no faster at products is emulated, often a hundred times slower: the rest would take minutes.
    precisions = [name for name in candidates if name == "fp32" or speeds[f"gemm {name}"] > speeds["gemm fp32"]]
    rules: list[AttentionRule] = []
    for precision in precisions:
        dtype = dtype_of(precision) or torch.float32
        speeds[f"convolution {precision}"] = convolution_gflops(dtype, channels_last=False)
        speeds[f"convolution channels_last {precision}"] = convolution_gflops(dtype, channels_last=True)
        rules += attention_rules(precision, dtype)
    precision = choose_precision(speeds, precisions)
    plain, last = (speeds[f"convolution {layout}{precision}"] for layout in ("", "channels_last "))
    lays_out = last > plain * GAIN_NEEDED if precision == "fp32" else last > plain / _CONTIGUOUS_GAIN
    as_product = [name for name in precisions if lays_out and convolution_gain(name) > GAIN_NEEDED]
    return CpuPlan(
        identity=found.identity,
        precision=precision,
        channels_last=lays_out,
        onednn_linear=tuple(precision for precision in precisions if linear_gain(precision) > 1.0),
        convolution_as_product=tuple(as_product),
        exact_gelu=("bf16",) if "bf16" in precisions and gelu_gain() > GAIN_NEEDED else (),
        threads=usable_cores(),
        keep_freed_memory=True,
        attention=tuple(rules),
        speeds={name: round(speed, 1) for name, speed in speeds.items()},
    )


def measure_plan(found: Capabilities, measure: Callable[[Capabilities], CpuPlan] = _measured) -> CpuPlan:
    """Measures this machine on one thread; torch's threads and random numbers are as they were afterwards.

    It may be done between two steps of a sampler that draws from torch's own generator.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            return measure(found)
    finally:
        torch.set_num_threads(before)


def choose_precision(speeds: dict[str, float], precisions: list[str]) -> str:
    """The precision that products and convolutions together are fastest in; fp32 unless another is clearly faster."""

    def together(precision: str) -> float:
        convolution = max(speeds[f"convolution {precision}"], speeds[f"convolution channels_last {precision}"])
        return 2 / (1 / speeds[f"gemm {precision}"] + 1 / convolution)

    best = max(precisions, key=together)
    return best if together(best) > together("fp32") * GAIN_NEEDED else "fp32"


best_seconds = functools.partial(timing.best_seconds, clock=_CLOCK)


def gemm_gflops(dtype: torch.dtype, *, size: int = 768) -> float:
    """Speed of a square matrix product, 2 size^3 operations."""
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    (seconds,) = best_seconds([lambda: left @ right])
    return 2 * size**3 / seconds / 1e9


def convolution_gflops(dtype: torch.dtype, *, channels_last: bool) -> float:
    """Speed of a 3x3 convolution of 320 channels on 32x32 pixels, a UNet's commonest work."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pixels = torch.randn(1, 320, 32, 32).to(dtype).to(memory_format=layout)
    weight = torch.randn(320, 320, 3, 3).to(dtype).to(memory_format=layout)
    (seconds,) = best_seconds([lambda: F.conv2d(pixels, weight, padding=1)])
    return 2 * 320 * 320 * 9 * 32 * 32 / seconds / 1e9


def linear_gain(precision: str) -> float:
    """How many times faster than torch's linear layer oneDNN's own is; 0 where oneDNN has none."""
    dtype = dtype_of(precision) or torch.float32
    if not onednn.linear_works(dtype):
        return 0.0
    given, weight, bias = torch.randn(1024, 640).to(dtype), torch.randn(640, 640).to(dtype), torch.randn(640).to(dtype)
    calls = [lambda: F.linear(given, weight, bias), lambda: onednn.linear(given, weight, bias)]
    plain_seconds, onednn_seconds = best_seconds(calls, repeats=5)
    return plain_seconds / onednn_seconds


def convolution_gain(precision: str) -> float:
    """How many times faster a product does what a large convolution of few pixels does; 0 where oneDNN has none."""
    dtype = dtype_of(precision) or torch.float32
    if not onednn.linear_works(dtype):
        return 0.0
    pixels = torch.randn(1, 1280, 8, 8).to(dtype).to(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(1280, 1280, 3, padding=1).to(dtype)
    channels_last(layer)
    calls = [lambda: layer(pixels), lambda: convolution_as_product(layer, pixels)]
    plain_seconds, product_seconds = best_seconds(calls)
    return plain_seconds / product_seconds


def gelu_gain() -> float:
    """How many times faster GELU is in bf16 than its approximation by tanh."""
    given = torch.randn(1 << 20).to(torch.bfloat16)
    calls = [functools.partial(F.gelu, given, approximate=way) for way in ("tanh", "none")]
    tanh_seconds, exact_seconds = best_seconds(calls)
    return tanh_seconds / exact_seconds


def attention_rules(precision: str, dtype: torch.dtype) -> list[AttentionRule]:
    """The fastest path for each class of lengths and head dims, smallest first."""
    rules = []
    for queries, keys, keys_up_to in _LENGTHS:
        for head_dim, head_dim_up_to in _HEAD_DIMS:
            path = fastest_path(dtype, queries, keys, head_dim)
            rules.append(AttentionRule(precision, keys_up_to, head_dim_up_to, path))
    return rules


def fastest_path(dtype: torch.dtype, queries: int, keys: int, head_dim: int) -> AttentionPath:
    q = torch.randn(1, queries, head_dim).to(dtype)
    k, v = (torch.randn(1, keys, head_dim).to(dtype) for _ in range(2))
    paths = list(AttentionPath)
    calls = [functools.partial(attention, q, k, v, heads=1, path=path) for path in paths]
    return paths[fastest(best_seconds(calls, repeats=2))]
