"""The quick table: what every device does with the operations that diffusion models are made of."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from ..devices import Device, find_devices
from ..doctor.numeric import HEAD_DIMS
from ..precision import dtype_of
from . import models
from .ceilings import matrix_flops
from .chart import bar_chart
from .compare import as_json, as_table, compare, load, rate_text
from .measure import Measurement, measure

COPY_BYTES = 64 << 20


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--device", help="measure only this device, such as xpu:0")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="also write a chart in SVG")
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="compare two JSON files instead of measuring"
    )


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Exit code 2 for a device or file that is not there."""
    try:
        if arguments.compare:
            before, after = (load(path) for path in arguments.compare)
            measurements, text = after, compare(before, after)
        else:
            measurements = list(quick_table(arguments.device))
            text = as_json(measurements) if arguments.json else as_table(measurements)
    except ValueError as error:
        return 2, f"bench: {error}"
    if arguments.chart:
        arguments.chart.write_text(chart(measurements), encoding="utf-8")
    return 0, text


def chart(measurements: Sequence[Measurement]) -> str:
    """A bar for every figure, operation by operation, as long as its share of the fastest device's rate."""
    known = [(entry, entry.rate) for entry in measurements if entry.rate]
    best: dict[str, float] = {}
    for entry, rate in known:
        best[entry.name] = max(rate, best.get(entry.name, 0.0))
    bars, labels = {}, {}
    for entry, rate in sorted(known, key=lambda pair: list(best).index(pair[0].name)):
        name = f"{entry.name}, {entry.device} {entry.precision}".strip()
        bars[name] = rate / best[entry.name]
        labels[name] = rate_text(rate, entry.unit)
    return bar_chart("Rates, relative to the fastest device", bars, labels=labels)


def quick_table(device_id: str | None = None) -> Iterator[Measurement]:
    """Measures every device, or the named one: a minute at most for a GPU, some minutes for a small CPU.

    Raises:
        ValueError: there is no device of that name.
    """
    devices = [device for device in find_devices().devices if device_id in (None, device.id)]
    if not devices:
        raise ValueError(f"{device_id} is not on this machine, see `python -m xpu_utils devices`.")
    for device in devices:
        yield from measure_device(device)


def measure_device(device: Device) -> list[Measurement]:
    """GEMM in every precision; the rest in the fastest of them, with that GEMM as its ceiling."""
    with torch.inference_mode():
        products = [_gemm(device, precision) for precision in ("fp32", "bf16", "fp16")]
        best = max(products, key=lambda entry: entry.rate or 0.0)
        rest = [_under(best, entry) for entry in _computing(device, best.precision)]
        limit = matrix_flops(device)
        if limit is not None:
            products = [
                dataclasses.replace(entry, ceiling=limit[0], ceiling_source=limit[1])
                if entry.precision != "fp32"
                else entry
                for entry in products
            ]
        return [*products, *rest, *(_copies(device) if device.type != "cpu" else [])]


def _under(product: Measurement, entry: Measurement) -> Measurement:
    if entry.unit != product.unit or product.rate is None:
        return entry
    return dataclasses.replace(entry, ceiling=product.rate, ceiling_source=f"its own gemm in {product.precision}")


def _gemm(device: Device, precision: str, *, size: int = 1024) -> Measurement:
    left, right = (_random(device, precision, size, size) for _ in range(2))
    return measure("gemm", device, precision, lambda: left @ right, work=2.0 * size**3, unit="FLOP/s")


def _computing(device: Device, precision: str) -> Iterator[Measurement]:
    """Convolution, attention by head dim, and the steps of three kinds of model."""
    picture = _random(device, precision, 2, 320, 64, 64)
    weight = _random(device, precision, 320, 320, 3, 3)
    yield measure(
        "convolution 320, 3x3, 64x64",
        device,
        precision,
        lambda: F.conv2d(picture, weight, padding=1),
        work=2.0 * 2 * 320 * 320 * 9 * 64 * 64,
        unit="FLOP/s",
    )
    for head_dim in HEAD_DIMS:
        yield _attention(device, precision, head_dim)
    latent, text = _random(device, precision, 2, 4, 64, 64), _random(device, precision, 2, 77, 768)
    yield _step("u-net step, reduced, 64x64", device, precision, models.UNet, latent, text)
    tokens = _random(device, precision, 1, 1024, 1536)
    yield _step("DiT step, reduced, 1024 tokens", device, precision, models.DiT, tokens)
    yield _step("VAE decode, reduced, 256x256", device, precision, models.Decoder, latent[:1, :, :32, :32])


def _attention(device: Device, precision: str, head_dim: int, *, heads: int = 8, tokens: int = 1024) -> Measurement:
    """Two products of tokens x tokens x head dim for every head."""
    query = _random(device, precision, 1, heads, tokens, head_dim)
    return measure(
        f"attention, head dim {head_dim}",
        device,
        precision,
        lambda: F.scaled_dot_product_attention(query, query, query),
        work=4.0 * heads * tokens**2 * head_dim,
        unit="FLOP/s",
    )


def _step(
    name: str, device: Device, precision: str, make: Callable[[], torch.nn.Module], *inputs: torch.Tensor
) -> Measurement:
    torch.manual_seed(0)
    model = make().to(device.torch_device, dtype_of(precision)).eval()
    return measure(name, device, precision, lambda: model(*inputs), work=1.0, unit="1/s")


def _copies(device: Device) -> Iterator[Measurement]:
    """Both directions, from pageable and from pinned memory."""
    there = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device.torch_device)
    for kind in ("pageable", "pinned"):
        here = torch.zeros(COPY_BYTES, dtype=torch.uint8)
        try:
            here = here.pin_memory(device.type) if kind == "pinned" else here
        except (RuntimeError, TypeError) as error:
            problem = str(error).splitlines()[0][:200]
            yield Measurement("copy, pinned", device.id, "", None, None, "B/s", problem=problem)
            return
        for name, target, source in (("to device", there, here), ("to host", here, there)):
            yield measure(
                f"copy {name}, {kind}",
                device,
                "",
                lambda target=target, source=source: target.copy_(source, non_blocking=True),  # type: ignore[misc]
                work=float(COPY_BYTES),
                unit="B/s",
            )


def _random(device: Device, precision: str, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).to(device.torch_device, dtype_of(precision))
