"""Fills tensors on the CPU from a file, in several threads."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from .conversion import by_way_of_fp32
from .spans import PerThread, SharedFile, Span

_CHUNK_BYTES = 1 << 20
"""One read that is converted: it is still in the processor's cache then."""
_JOB_BYTES = 4 << 20
"""What a thread reads before it asks for more: weights of very different sizes are spread evenly over threads."""
_ELEMENTS = 32_704
"""Converted at a time: torch splits no fewer than 32768 among threads of its own, which then wait for each other."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """Bytes of a span that are read at once."""

    span: Span
    offset_bytes: int
    size_bytes: int


def _jobs(spans: Iterable[Span]) -> Iterator[list[_Part]]:
    """Parts that one thread fills in a go: of a large span, or of many small ones."""
    job: list[_Part] = []
    job_bytes = 0
    for span in spans:
        for offset_bytes in range(0, span.size_bytes, _CHUNK_BYTES):
            job.append(_Part(span, offset_bytes, min(_CHUNK_BYTES, span.size_bytes - offset_bytes)))
            job_bytes += job[-1].size_bytes
            if job_bytes >= _JOB_BYTES:
                yield job
                job, job_bytes = [], 0
    if job:
        yield job


def fill_on_host(path: Path, spans: Iterable[Span], threads: int, progress: Callable[[int], None] | None) -> None:
    """`loading.fill` on the CPU."""
    begun: collections.deque[concurrent.futures.Future[int]] = collections.deque()

    def finish() -> None:
        filled_bytes = begun.popleft().result()
        if progress is not None:
            progress(filled_bytes)

    with (
        contextlib.closing(SharedFile(path)) as file,
        concurrent.futures.ThreadPoolExecutor(threads, "xpu-load") as executor,
    ):
        reader = _HostReader(file)
        for job in _jobs(spans):
            if len(begun) == 2 * threads:  # the next is there when a thread has finished its own
                finish()
            begun.append(executor.submit(reader.fill, job))
        while begun:
            finish()


class _HostReader:
    """Fills tensors from a file; for several threads."""

    def __init__(self, file: SharedFile) -> None:
        self._file = file
        self._chunk = PerThread(lambda: torch.empty(_CHUNK_BYTES, dtype=torch.uint8))

    @torch.inference_mode()  # the targets may be inference tensors, and a thread begins without that mode
    def fill(self, job: Sequence[_Part]) -> int:
        """Reads parts into their targets, or by way of a buffer where they are converted; answers their size."""
        for part in job:
            self._fill(part)
        return sum(part.size_bytes for part in job)

    def _fill(self, part: _Part) -> None:
        dtype, target = part.span.dtype, part.span.target.detach().view(-1)
        first, start = part.offset_bytes // dtype.itemsize, part.span.start + part.offset_bytes
        filled = target[first : first + part.size_bytes // dtype.itemsize]
        if dtype == target.dtype:
            self._file.read_into(filled.view(torch.uint8), start)
            return
        room = self._chunk.get()[: part.size_bytes]
        self._file.read_into(room, start)
        for some, given in zip(filled.split(_ELEMENTS), room.view(dtype).split(_ELEMENTS), strict=True):
            some.copy_(by_way_of_fp32(given, some.dtype))
