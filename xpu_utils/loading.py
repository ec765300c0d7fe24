"""Reads safetensors files straight to a device: parallel reads into page-locked buffers, copied on asynchronously.

safetensors' own loader reads through the page cache in one thread and copies from pageable memory; the streaming
loaders that exist (runai-model-streamer, fastsafetensors) know CUDA only.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path

import safetensors.torch
import torch

from .pinned import PinnedPool, shared_pool
from .tensor_file import Entry, LoadError, entries

CHUNK_BYTES = 16 << 20
"""One read, and one page-locked buffer."""

_HOST_CHUNK_BYTES = 1 << 20
"""One read that is converted on the CPU: it is still in the processor's cache then."""
_HOST_ELEMENTS = 32_704
"""Converted at a time: torch splits no fewer than 32768 among threads, which then wait for each other at every read.
One thread converts faster than a disk reads."""

GROUP_BYTES = 256 << 20
"""Tensors that are waited for together; two groups are under way at a time."""

THREADS = min(16, os.cpu_count() or 1)
_SPARE_BUFFERS = 4
"""Beside one for each thread: those whose copies are under way."""
_GAP_BYTES = 64 << 10
"""What lies between two tensors is read with them up to this size: cheaper than a second read."""
_CONVERTIBLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Bytes of a file and the tensor that they fill."""

    start: int
    """Their first byte in the file."""
    dtype: torch.dtype
    """What they are; they are converted to the target's dtype."""
    target: torch.Tensor

    @property
    def size_bytes(self) -> int:
        return self.target.numel() * self.dtype.itemsize


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

    On the CPU, what is read and not yet converted takes no more than 1 MiB. On a device, host memory is bounded by
    the page-locked buffers (a chunk for each thread and four more), and device memory beside the targets, where they
    are converted, by the groups under way.

    Args:
        pieces: in file order, their targets contiguous; they are taken when their reads can begin, so that an iterator
            may allocate.
        progress: called with the size of what was filled since the last call, on the calling thread.

    Raises:
        LoadError: the file was truncated meanwhile or could not be read.
        PinnedMemoryError: the page-locked memory is used up; nothing was filled yet.
    """
    if device.type == "cpu":
        _fill_on_host(path, pieces, progress)
        return
    with _Reader(path, device, threads, pool or shared_pool()) as reader:
        for group in reader.read(_groups(pieces)):
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


def _fill_on_host(path: Path, pieces: Iterable[Piece], progress: Callable[[int], None] | None) -> None:
    chunk = torch.empty(_HOST_CHUNK_BYTES, dtype=torch.uint8)
    file: FileIO | None = None
    try:
        for piece in pieces:
            file = file or _opened(path)
            rest = piece.target.detach().view(-1)
            for offset in range(0, piece.size_bytes, _HOST_CHUNK_BYTES):
                room = chunk[: piece.size_bytes - offset]
                _read_into(room, file, path, piece.start + offset)
                values = room.view(piece.dtype)
                filled = rest[: values.numel()]
                for target, part in zip(filled.split(_HOST_ELEMENTS), values.split(_HOST_ELEMENTS), strict=True):
                    target.copy_(part)
                rest = rest[values.numel() :]
            if progress is not None:
                progress(piece.size_bytes)
    finally:
        if file is not None:
            file.close()


def _opened(path: Path) -> FileIO:
    try:
        return FileIO(path)
    except OSError as error:
        raise LoadError(f"{path.name} could not be opened ({error.strerror}): check the disk.") from error


def _read_into(room: torch.Tensor, file: FileIO, path: Path, start: int) -> None:
    """Fills host memory (uint8) with what the file holds from `start` on."""
    try:
        file.seek(start)
        view = memoryview(room.numpy())  # type: ignore[arg-type]
        while view:
            count = file.readinto(view)
            if not count:
                raise LoadError(f"{path.name} was truncated while it was read: download it again.")
            view = view[count:]
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(f"{path.name} could not be read at byte {start} ({error.strerror}): check the disk.") from error


class _Group:
    """Pieces of a file that are read and waited for together."""

    def __init__(self, pieces: list[Piece]) -> None:
        self.size_bytes = sum(piece.size_bytes for piece in pieces)
        self._pieces = pieces
        self._rooms = [_room(piece) for piece in pieces]
        self.reads: list[concurrent.futures.Future[torch.Event]] = []

    def chunks(self) -> Iterator[tuple[int, int]]:
        """(first byte in the file, size) of the reads that fill the group."""
        begin = stop = self._pieces[0].start
        for piece in self._pieces:
            if piece.start > stop + _GAP_BYTES:
                yield from _cut(begin, stop)
                begin = piece.start
            stop = max(stop, piece.start + piece.size_bytes)
        yield from _cut(begin, stop)

    def parts(self, start: int, size_bytes: int) -> Iterator[tuple[torch.Tensor, int]]:
        """What a read fills: pieces of device memory, and where in the read each begins."""
        for piece, room in zip(self._pieces, self._rooms, strict=True):
            begin, end = max(piece.start, start), min(piece.start + piece.size_bytes, start + size_bytes)
            if begin < end:
                yield room[begin - piece.start : end - piece.start], begin - start

    def convert(self) -> None:
        """Puts what was read as another dtype into the targets."""
        for piece, room in zip(self._pieces, self._rooms, strict=True):
            if piece.dtype != piece.target.dtype:
                piece.target.detach().copy_(room.view(piece.dtype).view(piece.target.shape))
        self._rooms.clear()


def _groups(pieces: Iterable[Piece]) -> Iterator[_Group]:
    group: list[Piece] = []
    size_bytes = 0
    for piece in pieces:
        if group and size_bytes + piece.size_bytes > GROUP_BYTES:
            yield _Group(group)
            group, size_bytes = [], 0
        group.append(piece)
        size_bytes += piece.size_bytes
    if group:
        yield _Group(group)


def _room(piece: Piece) -> torch.Tensor:
    """Device memory (uint8) for a piece as it is in the file: the target's own where nothing is converted."""
    if piece.dtype == piece.target.dtype:
        return piece.target.detach().view(-1).view(torch.uint8)
    return torch.empty(piece.size_bytes, dtype=torch.uint8, device=piece.target.device)


def _cut(begin: int, stop: int) -> Iterator[tuple[int, int]]:
    for start in range(begin, stop, CHUNK_BYTES):
        yield start, min(CHUNK_BYTES, stop - start)


class _Worker(threading.local):
    """What each reading thread has of its own."""

    file: FileIO | None = None
    stream: torch.Stream | None = None


class _Reader:
    """Threads that read a file into page-locked buffers and queue their copies to the device."""

    def __init__(self, path: Path, device: torch.device, threads: int, pool: PinnedPool) -> None:
        self._path = path
        self._device = device
        self._threads = threads
        self._pool = pool
        self._worker = _Worker()
        self._files: list[FileIO] = []
        self._streams: list[torch.Stream] = []
        self._buffers: queue.SimpleQueue[tuple[torch.Tensor, torch.Event | None]] = queue.SimpleQueue()

    def __enter__(self) -> _Reader:
        for _ in range(self._threads + _SPARE_BUFFERS):
            self._buffers.put((self._pool.slab(CHUNK_BYTES), None))
        self._executor = concurrent.futures.ThreadPoolExecutor(self._threads, "xpu-load")
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        for file in self._files:
            file.close()
        try:
            for stream in self._streams:
                stream.synchronize()
        finally:  # gives the memory back even while an error's traceback holds the reader
            self._buffers = queue.SimpleQueue()

    def read(self, groups: Iterable[_Group]) -> Iterator[_Group]:
        """Each group when its memory is filled, as far as the current stream is concerned."""
        ahead = 2 + self._threads * CHUNK_BYTES // GROUP_BYTES
        begun: collections.deque[_Group] = collections.deque()
        for group in groups:
            if len(begun) == ahead:
                yield self._finished(begun.popleft())
            self._begin(group)
            begun.append(group)
        while begun:
            yield self._finished(begun.popleft())

    def _begin(self, group: _Group) -> None:
        usable = torch.Event(self._device)  # the memory may still be in use for what had it before
        usable.record(torch.accelerator.current_stream(self._device))
        group.reads = [
            self._executor.submit(self._fill, group, usable, start, size_bytes) for start, size_bytes in group.chunks()
        ]

    def _finished(self, group: _Group) -> _Group:
        stream = torch.accelerator.current_stream(self._device)
        for read in group.reads:
            stream.wait_event(read.result())
        return group

    @torch.inference_mode()  # the targets may be inference tensors, and a thread begins without that mode
    def _fill(self, group: _Group, usable: torch.Event, start: int, size_bytes: int) -> torch.Event:
        """Reads one chunk and queues its copies; runs in a thread."""
        buffer, copied = self._buffers.get()
        try:
            if copied is not None:
                copied.synchronize()
            _read_into(buffer[:size_bytes], self._file(), self._path, start)
            stream = self._stream()
            stream.wait_event(usable)
            with stream:
                for room, offset in group.parts(start, size_bytes):
                    room.copy_(buffer[offset : offset + room.numel()], non_blocking=True)
                copied = torch.Event(self._device)
                copied.record(stream)
            return copied
        finally:
            self._buffers.put((buffer, copied))

    def _file(self) -> FileIO:
        if self._worker.file is None:
            self._worker.file = _opened(self._path)
            self._files.append(self._worker.file)
        return self._worker.file

    def _stream(self) -> torch.Stream:
        if self._worker.stream is None:
            self._worker.stream = torch.Stream(self._device)
            self._streams.append(self._worker.stream)
        return self._worker.stream
