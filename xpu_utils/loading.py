"""Reads safetensors files straight to a device: parallel reads into page-locked buffers, copied on asynchronously.

safetensors' own loader reads through the page cache in one thread and copies from pageable memory; the streaming
loaders that exist (runai-model-streamer, fastsafetensors) know CUDA only.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path

import safetensors.torch
import torch

from .pinned import PinnedPool, aligned, shared_pool

CHUNK_BYTES = 16 << 20
"""One read, and one page-locked buffer."""

GROUP_BYTES = 256 << 20
"""Tensors that share one device allocation: few allocations, each far below any driver's limit."""

THREADS = min(16, os.cpu_count() or 1)
_SPARE_BUFFERS = 4
"""Beside one for each thread: those whose copies are under way."""
_HEADER_LIMIT_BYTES = 100 << 20

# The format's names: https://github.com/huggingface/safetensors, `Dtype`.
_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_CONVERTIBLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class LoadError(OSError):
    """A file that could not be read to its end; the message is one sentence."""


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One tensor of a file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    size_bytes: int


@dataclasses.dataclass
class _Group:
    """Tensors that follow each other in the file and share an allocation on the device."""

    entries: list[_Entry]

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.entries)

    def offsets(self) -> list[int]:
        """Where each tensor starts on the device; one more for the end."""
        offsets = [0]
        for entry in self.entries:
            offsets.append(offsets[-1] + aligned(entry.size_bytes))
        return offsets

    def segments(self) -> Iterator[tuple[int, int, int]]:
        """(first byte in the file, first byte on the device, size) of what is contiguous on both sides."""
        begun: tuple[int, int, int] | None = None
        for entry, offset in zip(self.entries, self.offsets(), strict=False):
            if begun is not None and (begun[0] + begun[2], begun[1] + begun[2]) == (entry.start, offset):
                begun = (begun[0], begun[1], begun[2] + entry.size_bytes)
                continue
            if begun is not None:
                yield begun
            begun = (entry.start, offset, entry.size_bytes)
        if begun is not None:
            yield begun

    def chunks(self) -> Iterator[tuple[int, int]]:
        """(first byte in the file, size) of the reads that fill the group."""
        start, stop = self.entries[0].start, self.entries[-1].start + self.entries[-1].size_bytes
        for begin in range(start, stop, CHUNK_BYTES):
            yield begin, min(CHUNK_BYTES, stop - begin)


def load_safetensors(
    path: Path,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    threads: int = THREADS,
    progress: Callable[[int, int], None] | None = None,
    pool: PinnedPool | None = None,
) -> dict[str, torch.Tensor]:
    """Loads all tensors of a file to a device.

    On the CPU the file is mapped: nothing is copied but what is converted. On a device, host memory is bounded by the
    page-locked buffers (a chunk for each thread and four more), and device memory by the result and, where `dtype`
    converts, the groups under way.

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
    if device.type == "cpu":
        return _mapped(path, dtype, progress)
    entries = _entries(path)
    total_bytes = sum(entry.size_bytes for entry in entries)
    tensors: dict[str, torch.Tensor] = {}
    done_bytes = 0
    with _Reader(path, device, threads, pool or shared_pool()) as reader:
        for group, storage in reader.read(_groups(entries)):
            tensors.update(_views(group, storage, dtype))
            done_bytes += group.size_bytes
            if progress is not None:
                progress(done_bytes, total_bytes)
    return tensors


def _mapped(
    path: Path, dtype: torch.dtype | None, progress: Callable[[int, int], None] | None
) -> dict[str, torch.Tensor]:
    try:
        tensors = safetensors.torch.load_file(path, device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        raise LoadError(f"{path.name} could not be read ({error}): download it again.") from error
    total_bytes = sum(tensor.nbytes for tensor in tensors.values())
    converted = {name: _converted(tensor, dtype) for name, tensor in tensors.items()}
    if progress is not None:
        progress(total_bytes, total_bytes)
    return converted


def _converted(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor if dtype is None or tensor.dtype not in _CONVERTIBLE else tensor.to(dtype)


def _entries(path: Path) -> list[_Entry]:
    """The file's tensors in file order, checked against its size."""
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= _HEADER_LIMIT_BYTES:
                raise LoadError(f"{path.name} is no safetensors file: get the right file.")
            header = json.loads(file.read(header_bytes))
            size_bytes = os.fstat(file.fileno()).st_size
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path.name} has a damaged header ({error}): download it again.") from error
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(f"{path.name} could not be read ({error.strerror}): check the disk.") from error
    header.pop("__metadata__", None)
    begin = 8 + header_bytes
    entries = []
    for name, fields in header.items():
        start, stop = fields["data_offsets"]
        if begin + stop > size_bytes:
            raise LoadError(f"{path.name} is truncated: it ends before {name}, download it again.")
        if fields["dtype"] not in _DTYPES:
            raise LoadError(f"{path.name} holds {name} as {fields['dtype']}, which is not known: update XPU Nodes.")
        entry = _Entry(name, _DTYPES[fields["dtype"]], tuple(fields["shape"]), begin + start, stop - start)
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry.start)


def _groups(entries: Sequence[_Entry]) -> Iterator[_Group]:
    group: list[_Entry] = []
    for entry in entries:
        if group and sum(other.size_bytes for other in group) + entry.size_bytes > GROUP_BYTES:
            yield _Group(group)
            group = []
        group.append(entry)
    if group:
        yield _Group(group)


def _views(group: _Group, storage: torch.Tensor, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    views = {}
    for entry, offset in zip(group.entries, group.offsets(), strict=False):
        flat = storage[offset : offset + entry.size_bytes]
        views[entry.name] = _converted(flat.view(entry.dtype).view(entry.shape), dtype)
    return views


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
        for stream in self._streams:
            stream.synchronize()
        self._buffers = queue.SimpleQueue()  # gives the memory back even while an error's traceback holds the reader

    def read(self, groups: Iterable[_Group]) -> Iterator[tuple[_Group, torch.Tensor]]:
        """Each group with its filled memory, as far as the current stream is concerned."""
        ahead = 2 + self._threads * CHUNK_BYTES // GROUP_BYTES
        begun: collections.deque[tuple[_Group, torch.Tensor, list[concurrent.futures.Future[torch.Event]]]]
        begun = collections.deque()
        for group in groups:
            if len(begun) == ahead:
                yield self._finished(*begun.popleft())
            begun.append(self._begun(group))
        while begun:
            yield self._finished(*begun.popleft())

    def _begun(self, group: _Group) -> tuple[_Group, torch.Tensor, list[concurrent.futures.Future[torch.Event]]]:
        storage = torch.empty(group.offsets()[-1], dtype=torch.uint8, device=self._device)
        usable = torch.Event(self._device)  # the memory may still be in use for what had it before
        usable.record(torch.accelerator.current_stream(self._device))
        segments = list(group.segments())
        reads = [
            self._executor.submit(self._fill, storage, usable, segments, start, size_bytes)
            for start, size_bytes in group.chunks()
        ]
        return group, storage, reads

    def _finished(
        self, group: _Group, storage: torch.Tensor, reads: list[concurrent.futures.Future[torch.Event]]
    ) -> tuple[_Group, torch.Tensor]:
        stream = torch.accelerator.current_stream(self._device)
        for read in reads:
            stream.wait_event(read.result())
        return group, storage

    def _fill(
        self,
        storage: torch.Tensor,
        usable: torch.Event,
        segments: Sequence[tuple[int, int, int]],
        start: int,
        size_bytes: int,
    ) -> torch.Event:
        """Reads one chunk and queues its copies; runs in a thread."""
        buffer, copied = self._buffers.get()
        try:
            if copied is not None:
                copied.synchronize()
            self._read_into(buffer, start, size_bytes)
            stream = self._stream()
            stream.wait_event(usable)
            with stream:
                for source, target, length in segments:
                    begin, end = max(source, start), min(source + length, start + size_bytes)
                    if begin < end:
                        room = storage[target + begin - source : target + end - source]
                        room.copy_(buffer[begin - start : end - start], non_blocking=True)
                copied = torch.Event(self._device)
                copied.record(stream)
            return copied
        finally:
            self._buffers.put((buffer, copied))

    def _read_into(self, buffer: torch.Tensor, start: int, size_bytes: int) -> None:
        try:
            if self._worker.file is None:
                self._worker.file = FileIO(self._path)
                self._files.append(self._worker.file)
            self._worker.file.seek(start)
            room = memoryview(buffer.numpy())[:size_bytes]  # type: ignore[arg-type]
            while room:
                count = self._worker.file.readinto(room)
                if not count:
                    raise LoadError(f"{self._path.name} was truncated while it was read: download it again.")
                room = room[count:]
        except LoadError:
            raise
        except OSError as error:
            raise LoadError(
                f"{self._path.name} could not be read at byte {start} ({error.strerror}): check the disk."
            ) from error

    def _stream(self) -> torch.Stream:
        if self._worker.stream is None:
            self._worker.stream = torch.Stream(self._device)
            self._streams.append(self._worker.stream)
        return self._worker.stream
