"""Copies of memory that is not page-locked to a device, by way of buffers that are and that several threads fill."""

from __future__ import annotations

import concurrent.futures
import itertools

import torch

from ..weights.pinned import PinnedPool, copy_in_thread

BUFFER_BYTES = 32 << 20
"""One is filled while the other is read: larger than most layers."""

_PART_BYTES = 2 << 20
"""What a thread copies in a go: less takes no longer than to wake it."""

_THREADS = 8
"""They fill buffers at 29 GB/s where a driver by itself reads pageable memory at 7 (CUDA H200)."""


class Bounce:
    """For one pass over a model; `close` it."""

    def __init__(self, pool: PinnedPool, device: torch.device) -> None:
        """
        Raises:
            PinnedMemoryError: see `PinnedPool.slab`.
        """
        self._pool = pool
        buffers = pool.slab(2 * BUFFER_BYTES, device).split(BUFFER_BYTES)
        self._turns = itertools.cycle((buffer, torch.Event(device)) for buffer in buffers)
        self._executor = concurrent.futures.ThreadPoolExecutor(_THREADS, "xpu-bounce")

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Queues copies on the current stream; a source that is not page-locked has been read when this returns.

        Args:
            target: on the device; uint8, 1-D.
            source: on the host, of the same size.
        """
        if self._pool.holds(source):
            target.copy_(source, non_blocking=True)
            return
        pieces = zip(target.split(BUFFER_BYTES), source.split(BUFFER_BYTES), strict=True)
        for (there, here), (buffer, read) in zip(pieces, self._turns, strict=False):
            read.synchronize()
            part = buffer[: len(here)]
            filling = zip(part.split(_PART_BYTES), here.split(_PART_BYTES), strict=True)
            for filled in [self._executor.submit(copy_in_thread, *pair) for pair in filling]:
                filled.result()
            there.copy_(part, non_blocking=True)
            read.record(torch.accelerator.current_stream(there.device))

    def close(self) -> None:
        """Ends the threads."""
        self._executor.shutdown()
