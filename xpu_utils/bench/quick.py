"""The quick table: what every device does with the operations that diffusion models are made of."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from ..machine.devices import Device, find_devices, torch_problem
from ..precision import dtype_of
from ..selftest.attention import ATTEND, Attending
from ..selftest.operations import HEAD_DIMS
from . import models
from .ceilings import compute_flops, link_bytes_per_s
from .chart import bar_chart
from .compare import as_json, as_table, compare, load, pairs, rate_text
from .measure import Measurement, measure

COPY_BYTES = 64 << 20
GEMM_SIZE, CPU_GEMM_SIZE = 4096, 1024
"""Large enough that an accelerator's time to start a kernel does not count; a CPU would need minutes for as much."""

Ceiling = tuple[float, str] | None
Measure = Callable[..., Measurement]
"""See `measure`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--device", help="measure only this device, such as xpu:0")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="also write a chart in SVG")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="compare two JSON files instead of measuring"
    )


def run(
    arguments: argparse.Namespace, *, table: Callable[[str | None], Iterator[Measurement]] | None = None
) -> tuple[int, str]:
    """Exit code 2 for a device or file that is not there, or a PyTorch that is too old."""
    try:
        if arguments.compare:
            before, after = (load(path) for path in arguments.compare)
            bars, text = two_bars(before, after), compare(before, after)
        elif problem := torch_problem():
            raise ValueError(problem)
        else:
            measurements = list((table or quick_table)(arguments.device))
            bars = one_bar(measurements)
            text = as_json(measurements) if arguments.json else as_table(measurements)
    except ValueError as error:
        return 2, f"bench: {error}"
    if arguments.chart:
        arguments.chart.write_text(chart(bars), encoding="utf-8")
    return 0, text


Bar = tuple[str, Measurement]
"""What stands beside it, and its figure."""


def one_bar(measurements: Sequence[Measurement]) -> list[Bar]:
    """A bar for each measurement."""
    return [(f"{entry.name}, {entry.device} {entry.precision}".strip(), entry) for entry in measurements]


def two_bars(before: Sequence[Measurement], after: Sequence[Measurement]) -> list[Bar]:
    """Two bars for each operation that both runs have."""
    found = pairs(before, after)
    earlier = [(f"{name}, before", entry) for name, entry in one_bar([first for first, _ in found])]
    later = [(f"{name}, after", entry) for name, entry in one_bar([second for _, second in found])]
    return [bar for pair in zip(earlier, later, strict=True) for bar in pair]


def chart(bars: Sequence[Bar]) -> str:
    """The bars that have a figure, operation by operation, as long as their share of that operation's highest rate."""
    known = [(name, entry, entry.rate) for name, entry in bars if entry.rate]
    best: dict[str, float] = {}
    for _, entry, rate in known:
        best[entry.name] = max(rate, best.get(entry.name, 0.0))
    order = sorted(known, key=lambda bar: list(best).index(bar[1].name))
    lengths = {name: rate / best[entry.name] for name, entry, rate in order}
    labels = {name: rate_text(rate, entry.unit) for name, entry, rate in order}
    return bar_chart("Rates, relative to the highest of each operation", lengths, labels=labels)


def quick_table(device_id: str | None = None) -> Iterator[Measurement]:
    """Measures every device, or the named one: a minute at most for a GPU, some minutes for a small CPU.

    Raises:
        ValueError: there is no device of that name.
    """
    devices = [device for device in find_devices().devices if device_id in (None, device.id)]
    if not devices:
        raise ValueError(f"{device_id} is not on this machine, see `python custom_nodes/xpu-nodes devices`.")
    for device in devices:
        yield from measure_device(device)


def measure_device(device: Device, measure: Measure = measure) -> list[Measurement]:
    """GEMM in every precision; the rest in the fastest of them, with that GEMM as its ceiling; then copies."""
    with torch.inference_mode():
        products = [_gemm(measure, device, precision) for precision in ("fp32", "bf16", "fp16")]
        best = max(products, key=lambda entry: entry.rate or 0.0)
        ceiling = None if best.rate is None else (best.rate, f"its own gemm in {best.precision}")
        rest = _computing(measure, device, best.precision, ceiling)
        return [*products, *rest, *(_copies(measure, device) if device.type != "cpu" else [])]


def measurement_count(device: Device) -> int:
    """How many measurements a device is given."""

    def nothing(name: str, device: Device, precision: str, *_: object, unit: str, **__: object) -> Measurement:
        return Measurement(name, device.id, precision, None, None, unit)

    return len(measure_device(device, nothing))


def _gemm(measure: Measure, device: Device, precision: str) -> Measurement:
    size = CPU_GEMM_SIZE if device.type == "cpu" else GEMM_SIZE

    def prepare() -> Callable[[], object]:
        left, right = (_random(device, precision, size, size) for _ in range(2))
        return lambda: left @ right

    ceiling = compute_flops(device, precision)
    return measure("gemm", device, precision, prepare, work=2.0 * size**3, unit="FLOP/s", ceiling=ceiling)


def _computing(measure: Measure, device: Device, precision: str, ceiling: Ceiling) -> Iterator[Measurement]:
    """Convolution, attention by head dim, and the steps of three kinds of model."""
    yield _convolution(measure, device, precision, ceiling)
    for head_dim in HEAD_DIMS:
        yield _attention(measure, device, precision, ceiling, head_dim, Attending.OWN)
        if device.type != "cpu":
            yield _attention(measure, device, precision, ceiling, head_dim, Attending.PRODUCTS)
    for name, make, shapes in (
        ("u-net step, reduced, 64x64", models.UNet, ((2, 4, 64, 64), (2, 77, 768))),
        ("DiT step, reduced, 1024 tokens", models.DiT, ((1, 1024, 1536),)),
        ("VAE decode, reduced, 256x256", models.Decoder, ((1, 4, 32, 32),)),
    ):
        yield _step(measure, name, device, precision, ceiling, make, shapes)


def _convolution(measure: Measure, device: Device, precision: str, ceiling: Ceiling) -> Measurement:
    def prepare() -> Callable[[], object]:
        picture = _random(device, precision, 2, 320, 64, 64)
        weight = _random(device, precision, 320, 320, 3, 3)
        return lambda: F.conv2d(picture, weight, padding=1)

    work = 2.0 * 2 * 320 * 320 * 9 * 64 * 64
    name = "convolution 320, 3x3, 64x64"
    return measure(name, device, precision, prepare, work=work, unit="FLOP/s", ceiling=ceiling)


def _attention(
    measure: Measure, device: Device, precision: str, ceiling: Ceiling, head_dim: int, way: Attending
) -> Measurement:
    """Two products of tokens x tokens x head dim for every head."""
    heads, tokens = 8, 1024

    def prepare() -> Callable[[], object]:
        query = _random(device, precision, 1, heads, tokens, head_dim)
        return lambda: ATTEND[way](query, query, query, None)

    work = 4.0 * heads * tokens**2 * head_dim
    name = f"attention{'' if way is Attending.OWN else f' by {way.value}'}, head dim {head_dim}"
    return measure(name, device, precision, prepare, work=work, unit="FLOP/s", ceiling=ceiling)


def _step(
    measure: Measure,
    name: str,
    device: Device,
    precision: str,
    ceiling: Ceiling,
    make: Callable[[], torch.nn.Module],
    shapes: Sequence[tuple[int, ...]],
) -> Measurement:
    def prepare() -> Callable[[], object]:
        with torch.random.fork_rng(devices=[]):  # what others draw goes on as it was
            torch.default_generator.manual_seed(0)
            model = make().to(device.torch_device, dtype_of(precision)).eval()
        inputs = [_random(device, precision, *shape) for shape in shapes]
        return lambda: model(*inputs)

    return measure(name, device, precision, prepare, work=models.flops(make, shapes), unit="FLOP/s", ceiling=ceiling)


def _copies(measure: Measure, device: Device) -> Iterator[Measurement]:
    """Both directions, from pageable and from pinned memory."""
    ceiling = link_bytes_per_s(device)
    for kind in ("pageable", "pinned"):
        for direction in ("to device", "to host"):
            yield measure(
                f"copy {direction}, {kind}",
                device,
                "",
                functools.partial(_copy, device, pinned=kind == "pinned", to_device=direction == "to device"),
                work=float(COPY_BYTES),
                unit="B/s",
                ceiling=ceiling,
            )


def _copy(device: Device, *, pinned: bool, to_device: bool) -> Callable[[], object]:
    here = torch.zeros(COPY_BYTES, dtype=torch.uint8)
    here = here.pin_memory(device.type) if pinned else here
    there = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device.torch_device)
    target, source = (there, here) if to_device else (here, there)
    return lambda: target.copy_(source, non_blocking=True)


def _random(device: Device, precision: str, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to(device.torch_device, dtype_of(precision))
