"""How many threads PyTorch computes with on the host while a device does the work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


class HostThreads:
    """One thread where a sampler computes between a device's calls, all of them where the host does the device's work.

    OpenMP's threads spin for milliseconds after they have computed, beside the one that queues the device's work: a
    step of the SDXL shape on an H200, whose host has 16 virtual cores, took 0.072 s with them and 0.058 s without
    (medians of six rounds in turns). What a sampler computes is too small to gain from them.
    """

    def __init__(self) -> None:
        self._all = torch.get_num_threads()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """One thread in the block; afterwards as many as before, or as were set in an `all` block meanwhile."""
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(self._all)

    @contextlib.contextmanager
    def all(self) -> Iterator[None]:
        """Within `one`, all threads in the block."""
        torch.set_num_threads(self._all)
        try:
            yield
        finally:
            self._all = torch.get_num_threads()  # the CPU engine sets the process's number when it is first used
            torch.set_num_threads(1)
