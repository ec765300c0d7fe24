"""The ways in which PyTorch attends on a device: which run, which are right, and what they cost."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..machine.devices import Device
from ..machine.timing import median_seconds
from ..memory.attention import attend_in_fp32
from ..precision import dtype_of
from ..recovery.faults import first_line
from ..selftest.operations import HEAD_DIMS

HEADS, TOKENS, CPU_TOKENS = 8, 2048, 256
SHORTEST_SECONDS = 0.05

ANY = "as PyTorch chooses"
BACKENDS = {
    ANY: None,
    **{
        name.lower().replace("_", " "): getattr(SDPBackend, name)
        for name in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "OVERRIDEABLE", "MATH")
        if hasattr(SDPBackend, name)
    },
}
"""By the name in the report."""


@dataclasses.dataclass(frozen=True)
class Path:
    """One way at one head dim."""

    backend: str
    head_dim: int
    precision: str
    relative_error: float | None = None
    """Against attention in fp32 on the processor."""
    seconds: float | None = None
    temporary_bytes: int | None = None
    """The most that was allocated meanwhile beside what went in; a tensor of scores shows here. None for the CPU."""
    problem: str = ""

    def __str__(self) -> str:
        done = self.problem or f"{(self.seconds or 0) * 1e3:.2f} ms"
        return f"head dim {self.head_dim} in {self.precision}, {self.backend}: {done}"


def attention_paths(device: Device) -> Iterator[Path]:
    """Every way at every head dim that models have, in the first precision of the device's profile."""
    precision = "fp32" if device.type == "cpu" else device.profile.compute_dtypes[0]
    for head_dim in HEAD_DIMS:
        for backend in BACKENDS:
            try:
                yield _path(device, backend, head_dim, precision)
            except (RuntimeError, TypeError) as error:
                yield Path(backend, head_dim, precision, problem=first_line(error)[:200])


def _path(device: Device, backend: str, head_dim: int, precision: str) -> Path:
    tokens = CPU_TOKENS if device.type == "cpu" else TOKENS
    generator = torch.Generator().manual_seed(1)
    shape = (1, HEADS, tokens, head_dim)
    query, key, value = (torch.randn(shape, generator=generator).to(dtype_of(precision)) for _ in range(3))
    q, k, v = (part.to(device.torch_device) for part in (query, key, value))
    chosen = BACKENDS[backend]

    def attend() -> torch.Tensor:
        with contextlib.nullcontext() if chosen is None else sdpa_kernel(chosen):
            return F.scaled_dot_product_attention(q, k, v)

    temporary_bytes = _restart_peak(device)
    answer = attend()
    if temporary_bytes is not None:
        temporary_bytes = int(torch.get_device_module(device.type).max_memory_allocated(device.index)) - temporary_bytes
    some = slice(0, 1), slice(0, 1)  # the processor needs a while for more
    expected = attend_in_fp32(query[some].float(), key[some].float(), value[some].float(), None)
    error = float((answer[some].float().cpu() - expected).abs().max() / expected.abs().max())
    seconds = median_seconds(attend, device, shortest_seconds=SHORTEST_SECONDS)
    return Path(backend, head_dim, precision, error, seconds, temporary_bytes)


def _restart_peak(device: Device) -> int | None:
    """What is allocated now, from where the peak counts."""
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device.type)
    module.reset_peak_memory_stats(device.index)
    return int(module.memory_allocated(device.index))
