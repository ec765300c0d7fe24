"""The parts of the report on one device, each run as a process: `python -m xpu_utils.hardware.parts DEVICE PART`.

A line of JSON for each finding, written at once: what was found before a driver ends the process is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from ..bench.measure import Measurement
from ..bench.quick import measure_device
from ..machine.devices import Device, find_devices
from ..selftest.operations import TOLERANCES, Result, check, operations
from ..selftest.products import FORMATS, Product, check_product
from . import attention, exhaustion, memory


@dataclasses.dataclass(frozen=True)
class Part:
    """One question about a device."""

    answer: Callable[[Device], Iterable[Any]]
    """Dataclasses."""
    limit_seconds: float


def _self_test(device: Device) -> Iterator[Any]:
    return (check(device.id, name, precision) for precision in TOLERANCES for name in operations())


def _formats(device: Device) -> Iterator[Any]:
    return (check_product(device, name) for name in FORMATS)


FILL, FORMATS_PART = "fill", "formats"
WORDS, WRONG = "words", "wrong"
"""Keys of a finding's line, beside its fields."""
PARTS: Mapping[str, Part] = {
    "self-test": Part(_self_test, 120),
    "memory": Part(memory.memory_truth, 60),
    "attention": Part(attention.attention_paths, 180),
    FORMATS_PART: Part(_formats, 120),
    "bench": Part(measure_device, 400),
    "out of memory": Part(exhaustion.exhaust, 60),
    FILL: Part(exhaustion.fill, 120),
}
"""By name, in the order in which they are run."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device")
    parser.add_argument("part", choices=PARTS)
    arguments = parser.parse_args()
    device = find_devices().find(arguments.device)
    if device is None:
        sys.exit(f"{arguments.device} is not on this machine")
    with torch.inference_mode():
        for found in PARTS[arguments.part].answer(device):
            sys.stdout.write(json.dumps(_told(found)) + "\n")
            sys.stdout.flush()
    return 0


def _told(found: Any) -> dict[str, Any]:
    own = {"way": found.way.value} if isinstance(found, Product) else {}
    return {**dataclasses.asdict(found), **own, WORDS: str(found), WRONG: wrong(found)}


@functools.singledispatch
def wrong(found: Any) -> str:
    """What is not as it should be, in a few words; empty where all is."""
    raise TypeError(f"{type(found).__name__} is no finding")


@wrong.register
def _(found: Result) -> str:
    return "" if found.right else found.problem or f"differs by {found.relative_error:.2g}"


@wrong.register
def _(found: attention.Path) -> str:
    """A way that PyTorch does not have for a head dim is none of its faults; without one chosen there must be one."""
    if found.relative_error is None:
        return found.problem if found.backend == attention.ANY else ""
    return f"differs by {found.relative_error:.2g}" if found.relative_error > TOLERANCES[found.precision] else ""


@wrong.register
def _(found: exhaustion.Exhaustion) -> str:
    if not found.works_after:
        return "computes wrongly afterwards"
    return "" if found.kind in exhaustion.KNOWN else f"taken for {found.kind}: {found.message}"


@wrong.register
def _(found: Product) -> str:
    return found.unpack_problem


@wrong.register
def _(found: Measurement) -> str:
    return found.problem


@wrong.register
def _(found: memory.Truth) -> str:
    """Not every source is there on every system, but one must be."""
    return found.problem or (found.unavailable if found.source == memory.BELIEVED else "")


if __name__ == "__main__":
    sys.exit(main())
