"""Fills tensors on an accelerator from a file: threads read it into page-locked buffers and queue their copies."""

from __future__ import annotations

import collections
import concurrent.futures
import queue
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from .pinned import PinnedPool
from .spans import PerThread, SharedFile, Span

CHUNK_BYTES = 16 << 20
"""One read, and one page-locked buffer."""

GROUP_BYTES = 256 << 20
"""Tensors that are waited for together; two groups are under way at a time."""

_SPARE_BUFFERS = 4
"""Beside one for each thread: those whose copies are under way."""
_GAP_BYTES = 64 << 10
"""What lies between two tensors is read with them up to this size: cheaper than a second read."""


class _Group:
    """Spans of a file that are read and waited for together."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans
        self._rooms = [_room(span) for span in spans]
        self._ranges = [(span.start, span.start + span.size_bytes) for span in spans]
        self.size_bytes = sum(stop - start for start, stop in self._ranges)
        self.reads: list[concurrent.futures.Future[torch.Event]] = []

    def chunks(self, chunk_bytes: int) -> Iterator[tuple[int, int]]:
        """(first byte in the file, size) of the reads that fill the group."""
        begin = end = self._ranges[0][0]
        for start, stop in self._ranges:
            if start > end + _GAP_BYTES:
                yield from _cut(begin, end, chunk_bytes)
                begin = start
            end = max(end, stop)
        yield from _cut(begin, end, chunk_bytes)

    def parts(self, start: int, size_bytes: int) -> Iterator[tuple[torch.Tensor, int]]:
        """What a read fills: parts of device memory, and where in the read each begins."""
        stop = start + size_bytes
        for room, (first, last) in zip(self._rooms, self._ranges, strict=True):
            if first < stop and start < last:
                begin, end = max(first, start), min(last, stop)
                yield room[begin - first : end - first], begin - start

    def convert(self) -> None:
        """Puts what was read as another dtype into the targets."""
        for span, room in zip(self._spans, self._rooms, strict=True):
            if span.dtype != span.target.dtype:
                span.target.detach().copy_(room.view(span.dtype).view(span.target.shape))
        self._rooms.clear()


def _groups(spans: Iterable[Span], group_bytes: int) -> Iterator[_Group]:
    group: list[Span] = []
    size_bytes = 0
    for span in spans:
        if group and size_bytes + span.size_bytes > group_bytes:
            yield _Group(group)
            group, size_bytes = [], 0
        group.append(span)
        size_bytes += span.size_bytes
    if group:
        yield _Group(group)


def _room(span: Span) -> torch.Tensor:
    """Device memory (uint8) for a span as it is in the file: the target's own where nothing is converted."""
    if span.dtype == span.target.dtype:
        return span.target.detach().view(-1).view(torch.uint8)
    return torch.empty(span.size_bytes, dtype=torch.uint8, device=span.target.device)


def _cut(begin: int, stop: int, chunk_bytes: int) -> Iterator[tuple[int, int]]:
    for start in range(begin, stop, chunk_bytes):
        yield start, min(chunk_bytes, stop - start)


class DeviceReader:
    """Threads that read a file into page-locked buffers and queue their copies to the device."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        threads: int,
        pool: PinnedPool,
        *,
        chunk_bytes: int,
        group_bytes: int,
    ) -> None:
        self._chunk_bytes, self._group_bytes = chunk_bytes, group_bytes
        self._device = device
        self._threads = threads
        self._pool = pool
        self._file = SharedFile(path)
        self._stream = PerThread(lambda: torch.Stream(device))
        self._buffers: queue.SimpleQueue[tuple[torch.Tensor, torch.Event | None]] = queue.SimpleQueue()

    def __enter__(self) -> DeviceReader:
        for _ in range(self._threads + _SPARE_BUFFERS):
            self._buffers.put((self._pool.slab(self._chunk_bytes, self._device), None))
        self._executor = concurrent.futures.ThreadPoolExecutor(self._threads, "xpu-load")
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)
        self._file.close()
        try:
            for stream in self._stream.made:
                stream.synchronize()
        finally:  # gives the memory back even while an error's traceback holds the reader
            self._buffers = queue.SimpleQueue()

    def read(self, spans: Iterable[Span]) -> Iterator[_Group]:
        """Each group of spans when its memory is filled, as far as the current stream is concerned."""
        ahead = 2 + self._threads * self._chunk_bytes // self._group_bytes
        begun: collections.deque[_Group] = collections.deque()
        for group in _groups(spans, self._group_bytes):
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
            self._executor.submit(self._fill, group, usable, start, size_bytes)
            for start, size_bytes in group.chunks(self._chunk_bytes)
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
            self._file.read_into(buffer[:size_bytes], start)
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
