"""Page-locked host memory: one bounded pool for everything that is copied to a device asynchronously."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator

import torch

from ..choice import AUTO
from ..machine.host_memory import HostMemory, read_host_memory
from ..recovery.faults import first_line

ALIGNMENT_BYTES = 512
"""Every tensor starts at a multiple of this, as in torch's own device allocators: kernels are chosen by alignment."""

SLAB_BYTES = 256 << 20
"""A power of two, because torch's caching host allocator rounds every request up to one."""

LIMIT_FRACTION = 0.45 if os.name == "nt" else 0.75
"""Share of the machine's memory that may be locked. Windows refuses more than about half."""


LEFT_FRACTION = 0.05
"""Share of the machine's memory that locking leaves to everything else: locked pages cannot be swapped out."""


_COPYING_THREADS = 8
"""One copies 5 GB/s on the host that was measured, four 16: a second load locks what is locked already, at once."""


class PinnedMemoryError(RuntimeError):
    """The pool's limit, or the system's, leaves no room for another slab."""


def aligned(size_bytes: int) -> int:
    """The size rounded up to the alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _page_locked(size_bytes: int, device: torch.device) -> torch.Tensor:
    # The driver asked is the current device's, which a thread begins with as the first one: that may be lost.
    with torch.get_device_module(device.type).device(device):
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)


class PinnedPool:
    """Hands out page-locked slabs up to a limit; a slab counts until the last tensor that views it is gone."""

    def __init__(
        self,
        limit_bytes: int,
        *,
        slab_bytes: int = SLAB_BYTES,
        allocate: Callable[[int, torch.device], torch.Tensor] = _page_locked,
        host: Callable[[], HostMemory] = read_host_memory,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.slab_bytes = slab_bytes
        self._host = host
        self._allocate = allocate
        self._lock = threading.RLock()
        self._slab_sizes: dict[int, int] = {}

    @property
    def used_bytes(self) -> int:
        return sum(self._slab_sizes.values())

    def slab(self, size_bytes: int, device: torch.device) -> torch.Tensor:
        """A new slab for copies to a device: uint8, shape (size_bytes,), uninitialised.

        Raises:
            PinnedMemoryError: the limit is reached, too little memory would be left, or the system refuses.
        """
        with self._lock:
            if self.used_bytes + size_bytes > self.limit_bytes:
                raise PinnedMemoryError(
                    f"Pinned memory: {size_bytes >> 20} MiB more would exceed the limit of {self.limit_bytes >> 20} MiB"
                    f" ({self.used_bytes >> 20} MiB in use), unload a model or use a smaller one."
                )
            host = self._host()
            if size_bytes + host.total_bytes * LEFT_FRACTION > host.available_bytes:
                raise PinnedMemoryError(
                    f"Pinned memory: locking {size_bytes >> 20} MiB more would leave too little of the "
                    f"{host.available_bytes >> 20} MiB of memory that are free, close other programs or unload a model."
                )
            try:
                slab = self._allocate(size_bytes, device)
            except (RuntimeError, MemoryError) as error:
                raise PinnedMemoryError(
                    f"Pinned memory: the system refused to lock {size_bytes >> 20} MiB"
                    f" ({first_line(error)}), close other programs or raise the limit of locked memory."
                ) from error
            storage = slab.untyped_storage()
            self._slab_sizes[storage.data_ptr()] = size_bytes
            weakref.finalize(storage, self._forget, storage.data_ptr())
            return slab

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor's storage is one of this pool's slabs."""
        return tensor.untyped_storage().data_ptr() in self._slab_sizes

    def _forget(self, address: int) -> None:
        with self._lock:
            del self._slab_sizes[address]


class Packer:
    """Places tensors for one device one behind the other in slabs of a pool."""

    def __init__(self, pool: PinnedPool, device: torch.device) -> None:
        self.pool = pool
        self._device = device
        self._slab: torch.Tensor | None = None
        self._used_bytes = 0

    def place(self, size_bytes: int) -> torch.Tensor:
        """Room for one tensor: a uint8 view of shape (size_bytes,), aligned.

        Raises:
            PinnedMemoryError: see `PinnedPool.slab`.
        """
        if self._slab is None or self._used_bytes + size_bytes > self._slab.numel():
            self._slab = self.pool.slab(max(self.pool.slab_bytes, aligned(size_bytes)), self._device)
            self._used_bytes = 0
        room = self._slab[self._used_bytes : self._used_bytes + size_bytes]
        self._used_bytes += aligned(size_bytes)
        return room


@contextlib.contextmanager
def copying() -> Iterator[Callable[[torch.Tensor, torch.Tensor], None]]:
    """Answers what begins a copy of the second tensor to the first, by several threads; the block's end waits."""
    begun: list[concurrent.futures.Future[None]] = []
    with concurrent.futures.ThreadPoolExecutor(_COPYING_THREADS, "xpu-lock") as executor:
        try:
            yield lambda target, source: begun.append(executor.submit(copy_in_thread, target, source))
        finally:
            for copy in begun:
                copy.result()


@torch.inference_mode()  # the tensors may be inference tensors, and a thread begins without that mode
def copy_in_thread(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copies the second tensor to the first, as a thread does."""
    target.copy_(source)


LOCKED_SHARES = (AUTO, "50%", "25%", "10%", "0%")
"""How much of the machine's memory the process's pool may lock, in the words users give."""


def limit_locked(share: str) -> None:
    """Sets the limit of the process's pool to one of `LOCKED_SHARES`; what is locked already stays so."""
    fraction = LIMIT_FRACTION if share == AUTO else min(LIMIT_FRACTION, float(share.rstrip("%")) / 100)
    shared_pool().limit_bytes = int(read_host_memory().total_bytes * fraction)


@functools.cache
def shared_pool() -> PinnedPool:
    """The process's one pool."""
    return PinnedPool(int(read_host_memory().total_bytes * LIMIT_FRACTION))
