"""Reads parts of a safetensors file straight to where their tensors are, in several threads.

safetensors' own loader reads through the page cache in one thread and copies from pageable memory; the streaming
loaders that exist (runai-model-streamer, fastsafetensors) know CUDA only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from .pinned import PinnedPool, shared_pool
from .spans import Span
from .to_device import CHUNK_BYTES, GROUP_BYTES, DeviceReader
from .to_host import fill_on_host

THREADS = min(16, os.cpu_count() or 1)


def fill(
    path: Path,
    device: torch.device,
    spans: Iterable[Span],
    *,
    threads: int = THREADS,
    progress: Callable[[int], None] | None = None,
    pool: PinnedPool | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    group_bytes: int = GROUP_BYTES,
) -> None:
    """Fills tensors on one device with parts of a file, as far as the device's current stream is concerned.

    On the CPU, what is read and not yet converted takes no more than 1 MiB a thread. On a device, host memory is
    bounded by the page-locked buffers (a chunk for each thread and four more), and device memory beside the targets,
    where they are converted, by the groups under way.

    Args:
        spans: in file order, their targets contiguous; they are taken when their reads can begin, so that an iterator
            may allocate.
        chunk_bytes: one read, and one page-locked buffer.
        group_bytes: what is waited for together; two groups are under way at a time.
        progress: called with the size of what was filled since the last call, on the calling thread.

    Raises:
        LoadError: the file was truncated meanwhile or could not be read.
        PinnedMemoryError: the page-locked memory is used up; nothing was filled yet.
    """
    if device.type == "cpu":
        fill_on_host(path, spans, threads, progress)
        return
    sizes = {"chunk_bytes": chunk_bytes, "group_bytes": group_bytes}
    with DeviceReader(path, device, threads, pool or shared_pool(), **sizes) as reader:
        for group in reader.read(spans):
            group.convert()
            if progress is not None:
                progress(group.size_bytes)
