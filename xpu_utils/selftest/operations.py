"""Does a device compute right? Small operations against the processor's answer in fp32.

Run as a program it is the child process of `probe`: `python -m xpu_utils.selftest.operations xpu:0 [--all]`, one JSON
line a result. A driver that aborts takes only that process down.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ..precision import dtype_of
from ..recovery.faults import FaultKind, classify, first_line

HEAD_DIMS = (40, 64, 80, 96, 128, 160)
"""SD1.5 uses 40, 80 and 160 (no fused kernel on XPU), SDXL 64, Flux and Wan 128."""

ATTENTION = "attention, head dim {}"
SLICED_CONVOLUTION = "sliced convolution 3d"

EMPTIED = "sums before the cache is emptied"
"""NaN on Arc A with PyTorch 2.14 (pytorch #197520), where nothing was read to the host in between."""

MAY_ABORT = (SLICED_CONVOLUTION,)
"""Operations that end the process on some devices (ComfyUI #14513), to be run in a child process only."""

TOLERANCES = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 1e-2}
"""Largest error relative to the largest value: a few roundings at the precision's epsilon."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One operation in one precision."""

    name: str
    precision: str
    relative_error: float | None
    """None where it could not run, or gave something that is not finite."""
    problem: str = ""

    @property
    def right(self) -> bool:
        return self.relative_error is not None and self.relative_error <= TOLERANCES[self.precision]

    def __str__(self) -> str:
        return f"{self.name} in {self.precision}"


def is_circumstance(problem: str) -> bool:
    """Whether the text of a failure tells nothing of how a device computes: its memory is full, or it is lost."""
    return bool(problem) and classify(RuntimeError(problem)) in (FaultKind.OUT_OF_MEMORY, FaultKind.DEVICE_LOST)


Operation = Callable[[torch.Tensor], torch.Tensor]


def operations() -> dict[str, tuple[tuple[int, ...], Operation]]:
    """Name -> (shape of its input, operation on it)."""
    found: dict[str, tuple[tuple[int, ...], Operation]] = {
        "matrix product": ((64, 64), lambda x: x @ x.T),
        "convolution": ((1, 8, 16, 16), lambda x: F.conv2d(x, x[:, :, :3, :3].expand(8, 8, 3, 3).contiguous())),
        SLICED_CONVOLUTION: ((1, 4, 6, 8, 8), lambda x: F.conv3d(x, x[:, :, :2, :3, :3].expand(4, 4, 2, 3, 3))),
        "softmax": ((8, 256), lambda x: x.softmax(-1)),
        "group norm": ((2, 32, 8, 8), lambda x: F.group_norm(x, 8)),
        "layer norm": ((4, 128), lambda x: F.layer_norm(x, (128,))),
        "gelu": ((4, 128), F.gelu),
        EMPTIED: ((64, 64), _sums_of_a_long_chain),
        "upscale": ((1, 4, 8, 8), lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest")),
    }
    for head_dim in HEAD_DIMS:
        found[ATTENTION.format(head_dim)] = ((1, 2, 32, head_dim), lambda x: _attention(x))
    return found


def _sums_of_a_long_chain(x: torch.Tensor) -> torch.Tensor:
    """Many kernels in a row and a reduction, after which the device's cache is emptied."""
    link = x
    for _ in range(64):
        link = torch.where(link > 0, link, -link) - 0.5
    sums = torch.zeros_like(x).index_add(0, torch.arange(len(x), device=x.device) // 2, link)
    if x.device.type != "cpu":
        torch.get_device_module(x.device.type).empty_cache()
    return sums


def _attention(x: torch.Tensor) -> torch.Tensor:
    """To all, and from fewer queries than there are keys, which PyTorch 2.14 has wrong with head dims above 128."""
    few = F.scaled_dot_product_attention(x[:, :, : x.shape[2] // 4], x, x)
    return torch.cat((F.scaled_dot_product_attention(x, x, x), few), dim=2)


def check(device: str, name: str, precision: str) -> Result:
    """Runs one operation on the device and compares it with the processor."""
    shape, operation = operations()[name]
    dtype = dtype_of(precision)
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(shape, generator=generator).to(dtype)
    expected = operation(values.float())
    return compared(name, precision, lambda: operation(values.to(device)), expected)


def compared(name: str, precision: str, work: Callable[[], torch.Tensor], expected: torch.Tensor) -> Result:
    """What a device's work gives, against what the processor expects of it."""
    try:
        answer = work().float().cpu()
    except (RuntimeError, NotImplementedError) as error:
        return Result(name, precision, None, first_line(error)[:200])
    if not bool(answer.isfinite().all()):
        return Result(name, precision, None, "the answer is not finite")
    difference = (answer - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    return Result(name, precision, float(difference))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device")
    parser.add_argument("--all", action="store_true", help="every operation in every precision")
    arguments = parser.parse_args()
    every = itertools.product(operations(), TOLERANCES)
    for name, precision in every if arguments.all else [("matrix product", "fp32")]:
        result = check(arguments.device, name, precision)
        sys.stdout.write(json.dumps(dataclasses.asdict(result)) + "\n")
        sys.stdout.flush()  # what was done before an abort is kept
    return 0


if __name__ == "__main__":
    sys.exit(main())
