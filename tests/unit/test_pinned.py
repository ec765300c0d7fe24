"""The pool of page-locked memory, over ordinary memory: what it counts and refuses."""

from __future__ import annotations

import pytest
import torch

from xpu_utils.choice import AUTO
from xpu_utils.machine.host_memory import HostMemory, read_host_memory
from xpu_utils.weights import pinned
from xpu_utils.weights.pinned import ALIGNMENT_BYTES, Packer, PinnedMemoryError, PinnedPool

CPU = torch.device("cpu")


def ordinary(size_bytes: int, device: torch.device) -> torch.Tensor:
    return torch.empty(size_bytes, dtype=torch.uint8)


def test_a_slab_counts_until_the_last_tensor_over_it_is_gone() -> None:
    pool = PinnedPool(1 << 20, allocate=ordinary)
    slab = pool.slab(1000, CPU)
    parameter = torch.nn.Parameter(torch.zeros(4), requires_grad=False)
    parameter.data = slab[:16].view(torch.float32)
    assert pool.holds(parameter.data)
    del slab
    assert pool.used_bytes == 1000
    del parameter
    assert pool.used_bytes == 0


def test_the_limit_is_kept_and_named() -> None:
    pool = PinnedPool(3 << 20, allocate=ordinary)
    kept = pool.slab(2 << 20, CPU)
    with pytest.raises(PinnedMemoryError, match=r"2 MiB more would exceed the limit of 3 MiB \(2 MiB in use\)"):
        pool.slab(2 << 20, CPU)
    assert pool.used_bytes == len(kept)


def test_so_much_is_not_locked_that_nothing_is_left() -> None:
    pool = PinnedPool(1 << 40, allocate=ordinary, host=lambda: HostMemory(100 << 20, 30 << 20))
    kept = pool.slab(20 << 20, CPU)
    with pytest.raises(PinnedMemoryError, match="locking 26 MiB more would leave too little of the 30 MiB"):
        pool.slab(26 << 20, CPU)
    assert pool.used_bytes == len(kept)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (RuntimeError("CUDA error: out of memory\nmore lines"), "CUDA error: out of memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_refusal_by_the_system_is_one_sentence_and_counts_nothing(refusal: Exception, said: str) -> None:
    def refuse(size_bytes: int, device: torch.device) -> torch.Tensor:
        raise refusal

    pool = PinnedPool(1 << 30, allocate=refuse)
    with pytest.raises(PinnedMemoryError, match=rf"refused to lock 1 MiB \({said}\)"):
        pool.slab(1 << 20, CPU)
    assert pool.used_bytes == 0


def test_packed_tensors_are_aligned_and_do_not_overlap() -> None:
    pool = PinnedPool(1 << 20, slab_bytes=4096, allocate=ordinary)
    packer = Packer(pool, CPU)
    rooms = [packer.place(size) for size in (1, 513, 3000, 5000, 7)]
    starts = [room.storage_offset() for room in rooms]
    assert starts == [0, ALIGNMENT_BYTES, 0, 0, 0]
    assert [len(room) for room in rooms] == [1, 513, 3000, 5000, 7]
    assert pool.used_bytes == 4096 + 4096 + 5120 + 4096


@pytest.mark.parametrize(("share", "fraction"), [("10%", 0.1), ("0%", 0.0), (AUTO, pinned.LIMIT_FRACTION)])
def test_the_user_says_how_much_of_the_machines_memory_may_be_locked(share: str, fraction: float) -> None:
    pinned.limit_locked(share)
    assert pinned.shared_pool().limit_bytes == int(read_host_memory().total_bytes * fraction)
