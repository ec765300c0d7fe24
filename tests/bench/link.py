"""How fast host memory reaches a device."""

from __future__ import annotations

import statistics
import time

import torch

_SAMPLE_BYTES = 256 << 20
_REPEATS = 5


def host_to_device_bytes_per_s(device: torch.device, *, pinned: bool) -> float:
    """Median rate of a large copy, from page-locked or from pageable memory."""
    source = torch.ones(_SAMPLE_BYTES, dtype=torch.uint8, pin_memory=pinned)
    target = torch.empty_like(source, device=device, pin_memory=False)
    seconds = []
    for _ in range(_REPEATS):
        torch.accelerator.synchronize(device)
        started = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return _SAMPLE_BYTES / statistics.median(seconds)
