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
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Generic, TypeVar

import safetensors.torch
import torch

from .conversion import by_way_of_fp32
from .pinned import PinnedPool, shared_pool
from .tensor_file import Entry, LoadError, entries

Made = TypeVar("Made")

CHUNK_BYTES = 16 << 20
"""One read, and one page-locked buffer."""

_HOST_CHUNK_BYTES = 1 << 20
"""One read that is converted on the CPU: it is still in the processor's cache then."""
_HOST_JOB_BYTES = 4 << 20
"""What a thread reads before it asks for more: weights of very different sizes are spread evenly over threads."""
_HOST_ELEMENTS = 32_704
"""Converted at a time: torch splits no fewer than 32768 among threads of its own, which then wait for each other."""

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
        _fill_on_host(path, pieces, threads, progress)
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


@dataclasses.dataclass(frozen=True)
class _Part:
    """Bytes of a piece that are read at once."""

    piece: Piece
    offset_bytes: int
    size_bytes: int


def _jobs(pieces: Iterable[Piece]) -> Iterator[list[_Part]]:
    """Parts that one thread fills in a go: of a large piece, or of many small ones."""
    job: list[_Part] = []
    job_bytes = 0
    for piece in pieces:
        for offset_bytes in range(0, piece.size_bytes, _HOST_CHUNK_BYTES):
            job.append(_Part(piece, offset_bytes, min(_HOST_CHUNK_BYTES, piece.size_bytes - offset_bytes)))
            job_bytes += job[-1].size_bytes
            if job_bytes >= _HOST_JOB_BYTES:
                yield job
                job, job_bytes = [], 0
    if job:
        yield job


def _fill_on_host(path: Path, pieces: Iterable[Piece], threads: int, progress: Callable[[int], None] | None) -> None:
    begun: collections.deque[concurrent.futures.Future[int]] = collections.deque()

    def finish() -> None:
        filled_bytes = begun.popleft().result()
        if progress is not None:
            progress(filled_bytes)

    with _HostReader(path) as reader, concurrent.futures.ThreadPoolExecutor(threads, "xpu-load") as executor:
        for job in _jobs(pieces):
            if len(begun) == 2 * threads:  # the next is there when a thread has finished its own
                finish()
            begun.append(executor.submit(reader.fill, job))
        while begun:
            finish()


class _HostReader:
    """Fills tensors on the CPU from a file, in several threads."""

    def __init__(self, path: Path) -> None:
        self._files = _Files(path)
        self._chunk = _PerThread(lambda: torch.empty(_HOST_CHUNK_BYTES, dtype=torch.uint8))

    def __enter__(self) -> _HostReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @torch.inference_mode()  # the targets may be inference tensors, and a thread begins without that mode
    def fill(self, job: Sequence[_Part]) -> int:
        """Reads parts into their targets, or by way of a buffer where they are converted; answers their size."""
        for part in job:
            self._fill(part)
        return sum(part.size_bytes for part in job)

    def _fill(self, part: _Part) -> None:
        dtype, target = part.piece.dtype, part.piece.target.detach().view(-1)
        first, start = part.offset_bytes // dtype.itemsize, part.piece.start + part.offset_bytes
        filled = target[first : first + part.size_bytes // dtype.itemsize]
        if dtype == target.dtype:
            self._files.read_into(filled.view(torch.uint8), start)
            return
        room = self._chunk.get()[: part.size_bytes]
        self._files.read_into(room, start)
        for some, given in zip(filled.split(_HOST_ELEMENTS), room.view(dtype).split(_HOST_ELEMENTS), strict=True):
            some.copy_(by_way_of_fp32(given, some.dtype))


class _PerThread(Generic[Made]):
    """Something that each thread makes for itself when it first needs it."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._own = threading.local()
        self.made: list[Made] = []
        """Those of all threads."""

    def get(self) -> Made:
        """The calling thread's."""
        if not hasattr(self._own, "value"):
            self._own.value = self._make()
            self.made.append(self._own.value)
        value: Made = self._own.value
        return value


class _Files:
    """A file, opened once by each thread that reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = _PerThread(lambda: FileIO(path))

    def read_into(self, room: torch.Tensor, start: int) -> None:
        """Fills host memory (uint8) with what the file holds from `start` on.

        Raises:
            LoadError: the file is shorter, or could not be read.
        """
        name = self._path.name
        try:
            file = self._opened.get()
            file.seek(start)
            view = memoryview(room.numpy())  # type: ignore[arg-type]
            while view:
                count = file.readinto(view)
                if not count:
                    raise LoadError(f"{name} was truncated while it was read: download it again.")
                view = view[count:]
        except LoadError:
            raise
        except OSError as error:
            raise LoadError(f"{name} could not be read at byte {start} ({error.strerror}): check the disk.") from error

    def close(self) -> None:
        for file in self._opened.made:
            file.close()


class _Group:
    """Pieces of a file that are read and waited for together."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces
        self._rooms = [_room(piece) for piece in pieces]
        self._spans = [(piece.start, piece.start + piece.size_bytes) for piece in pieces]
        self.size_bytes = sum(stop - start for start, stop in self._spans)
        self.reads: list[concurrent.futures.Future[torch.Event]] = []

    def chunks(self) -> Iterator[tuple[int, int]]:
        """(first byte in the file, size) of the reads that fill the group."""
        begin = end = self._spans[0][0]
        for start, stop in self._spans:
            if start > end + _GAP_BYTES:
                yield from _cut(begin, end)
                begin = start
            end = max(end, stop)
        yield from _cut(begin, end)

    def parts(self, start: int, size_bytes: int) -> Iterator[tuple[torch.Tensor, int]]:
        """What a read fills: pieces of device memory, and where in the read each begins."""
        stop = start + size_bytes
        for room, (first, last) in zip(self._rooms, self._spans, strict=True):
            if first < stop and start < last:
                begin, end = max(first, start), min(last, stop)
                yield room[begin - first : end - first], begin - start

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


class _Reader:
    """Threads that read a file into page-locked buffers and queue their copies to the device."""

    def __init__(self, path: Path, device: torch.device, threads: int, pool: PinnedPool) -> None:
        self._device = device
        self._threads = threads
        self._pool = pool
        self._files = _Files(path)
        self._stream = _PerThread(lambda: torch.Stream(device))
        self._buffers: queue.SimpleQueue[tuple[torch.Tensor, torch.Event | None]] = queue.SimpleQueue()

    def __enter__(self) -> _Reader:
        for _ in range(self._threads + _SPARE_BUFFERS):
            self._buffers.put((self._pool.slab(CHUNK_BYTES, self._device), None))
        self._executor = concurrent.futures.ThreadPoolExecutor(self._threads, "xpu-load")
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._files.close()
        try:
            for stream in self._stream.made:
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
            self._files.read_into(buffer[:size_bytes], start)
            stream = self._stream.get()
            stream.wait_event(usable)
            with stream:
                for room, offset in group.parts(start, size_bytes):
                    room.copy_(buffer[offset : offset + room.numel()], non_blocking=True)
                copied = torch.Event(self._device)
                copied.record(stream)
            return copied
        finally:
            self._buffers.put((buffer, copied))
