"""Reads safetensors files straight to where their tensors are to be, in several threads.

safetensors' own loader reads through the page cache in one thread and copies from pageable memory; the streaming
loaders that exist (runai-model-streamer, fastsafetensors) know CUDA only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import safetensors.torch
import torch

from .header import Entry, LoadError, entries
from .pinned import PinnedPool, shared_pool
from .spans import Piece
from .to_device import DeviceReader
from .to_host import fill_on_host

THREADS = min(16, os.cpu_count() or 1)
_CONVERTIBLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_safetensors(
    path: Path,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    threads: int = THREADS,
    progress: Callable[[int, int], None] | None = None,
    pool: PinnedPool | None = None,
) -> dict[str, torch.Tensor]:
    """Loads all tensors of a file to a device; each owns its memory there, so that freeing one frees it.

    On the CPU the file is mapped: nothing is copied but what is converted, and of that no page of the file stays in
    the process's memory. On a device, see `fill`.

    Args:
        dtype: 16- to 64-bit floating-point tensors are converted to it; fp8 and integers stay as they are.
        progress: called with (bytes read, bytes in all) from time to time, on the calling thread.
        pool: where the page-locked buffers come from; the process's shared one by default.

    Returns:
        Tensors by name, shapes as in the file.

    Raises:
        LoadError: the file is damaged, was truncated meanwhile, or could not be read.
        PinnedMemoryError: the page-locked memory is used up.
    """
    tensors = _mapped(path) if device.type == "cpu" else {}
    header = entries(path)
    total_bytes = sum(entry.size_bytes for entry in header)
    read = [entry for entry in header if device.type != "cpu" or _dtype_after(entry, dtype) != entry.dtype]
    done_bytes = total_bytes - sum(entry.size_bytes for entry in read)

    def pieces() -> Iterator[Piece]:
        for entry in read:
            tensors[entry.name] = torch.empty(entry.shape, dtype=_dtype_after(entry, dtype), device=device)
            yield Piece(entry.start, entry.dtype, tensors[entry.name])

    def advance(size_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += size_bytes
        if progress is not None:
            progress(done_bytes, total_bytes)

    advance(0)
    fill(path, device, pieces(), threads=threads, progress=advance, pool=pool)
    return tensors


def fill(
    path: Path,
    device: torch.device,
    pieces: Iterable[Piece],
    *,
    threads: int = THREADS,
    progress: Callable[[int], None] | None = None,
    pool: PinnedPool | None = None,
) -> None:
    """Fills tensors on one device with parts of a file, as far as the device's current stream is concerned.

    On the CPU, what is read and not yet converted takes no more than 1 MiB a thread. On a device, host memory is
    bounded by the page-locked buffers (a chunk for each thread and four more), and device memory beside the targets,
    where they are converted, by the groups under way.

    Args:
        pieces: in file order, their targets contiguous; they are taken when their reads can begin, so that an iterator
            may allocate.
        progress: called with the size of what was filled since the last call, on the calling thread.

    Raises:
        LoadError: the file was truncated meanwhile or could not be read.
        PinnedMemoryError: the page-locked memory is used up; nothing was filled yet.
    """
    if device.type == "cpu":
        fill_on_host(path, pieces, threads, progress)
        return
    with DeviceReader(path, device, threads, pool or shared_pool()) as reader:
        for group in reader.read(pieces):
            group.convert()
            if progress is not None:
                progress(group.size_bytes)


def _mapped(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        raise LoadError(f"{path.name} could not be read ({error}): download it again.") from error


def _dtype_after(entry: Entry, dtype: torch.dtype | None) -> torch.dtype:
    return entry.dtype if dtype is None or entry.dtype not in _CONVERTIBLE else dtype
