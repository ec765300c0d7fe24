"""Loading safetensors to a simulated device: what arrives, through which memory, and what happens when it cannot."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import xpu_sim
from tests.harness.filling import read_all
from xpu_utils.weights.fill import fill
from xpu_utils.weights.header import LoadError, entries
from xpu_utils.weights.pinned import PinnedMemoryError, PinnedPool
from xpu_utils.weights.spans import Span

DEVICE = torch.device("xpu:0")
THREADS = 3
CHUNK_BYTES = 10_000
SMALL: dict[str, Any] = {"threads": THREADS, "chunk_bytes": CHUNK_BYTES, "group_bytes": 64_000}
"""Many chunks and groups from a small file."""


@pytest.fixture
def pool() -> PinnedPool:
    return PinnedPool(1 << 20)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 128), (128,), (33, 7), (), (0, 4), (300, 100), (1,), (16, 16, 3, 3)]
    values = [torch.randn(shape, generator=generator) for shape in shapes * 4]
    dtypes = (torch.float16, torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int32)
    return {f"layer.{index}": value.to(dtypes[index % len(dtypes)]) for index, value in enumerate(values)}


@pytest.fixture
def file(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path


def test_every_tensor_arrives_as_it_is(file: Path, tensors: dict[str, torch.Tensor], pool: PinnedPool) -> None:
    loaded = read_all(file, DEVICE, **SMALL, pool=pool)
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].device == DEVICE
        assert loaded[name].dtype == value.dtype
        assert loaded[name].shape == value.shape
        assert torch.equal(loaded[name].cpu().reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))


def test_wide_floats_are_converted_on_the_way(file: Path, tensors: dict[str, torch.Tensor], pool: PinnedPool) -> None:
    loaded = read_all(file, DEVICE, dtype=torch.bfloat16, **SMALL, pool=pool)
    for name, value in tensors.items():
        wide = value.dtype in (torch.float16, torch.float32, torch.bfloat16)
        assert loaded[name].dtype == (torch.bfloat16 if wide else value.dtype)
        if wide:
            assert torch.equal(loaded[name].cpu(), value.to(torch.bfloat16))


def test_each_byte_is_copied_once_asynchronously_from_bounded_pinned_memory(
    file: Path, tensors: dict[str, torch.Tensor], sim: xpu_sim.Simulation
) -> None:
    pool = PinnedPool((THREADS + 4) * CHUNK_BYTES)
    loaded = read_all(file, DEVICE, **SMALL, pool=pool)
    copies = [copy for copy in sim.statistics().copies if copy.direction == "host_to_device"]
    assert all(copy.pinned and copy.non_blocking and copy.stream != 0 for copy in copies)
    assert sum(copy.bytes for copy in copies) == sum(value.nbytes for value in tensors.values())
    assert len({copy.stream for copy in copies}) <= THREADS
    assert len(loaded) == len(tensors)
    assert pool.used_bytes == 0


def test_each_tensor_owns_its_memory(file: Path, pool: PinnedPool) -> None:
    """ComfyUI moves single weights away and believes that their memory is free then."""
    loaded = read_all(file, DEVICE, **SMALL, pool=pool)
    before = torch.xpu.memory_allocated(0)
    size_bytes = loaded.pop("layer.5").nbytes
    assert before - torch.xpu.memory_allocated(0) >= size_bytes


def test_parts_of_a_file_fill_tensors_that_exist(
    file: Path, tensors: dict[str, torch.Tensor], sim: xpu_sim.Simulation
) -> None:
    """Some converted, some not, with others between them in the file; nothing else is copied."""
    wanted = [entry for entry in entries(file) if entry.size_bytes][::3]
    targets = [
        torch.empty(entry.shape, dtype=torch.float32 if entry.dtype.is_floating_point else entry.dtype, device=DEVICE)
        for entry in wanted
    ]
    sim.reset_statistics()
    spans = [Span(entry.start, entry.dtype, target) for entry, target in zip(wanted, targets, strict=True)]
    fill(file, DEVICE, spans, **SMALL, pool=PinnedPool(1 << 20))
    assert sum(copy.bytes for copy in sim.statistics().copies) == sum(entry.size_bytes for entry in wanted)
    for entry, target in zip(wanted, targets, strict=True):
        assert torch.equal(target.cpu(), tensors[entry.name].to(target.dtype))


def test_progress_counts_bytes_up_to_the_whole(file: Path, tensors: dict[str, torch.Tensor], pool: PinnedPool) -> None:
    seen: list[int] = []
    read_all(file, DEVICE, pool=pool, **SMALL, progress=seen.append)
    assert len(seen) > 1
    assert sum(seen) == sum(value.nbytes for value in tensors.values())


def assert_nothing_leaked(pool: PinnedPool, before: int) -> None:
    gc.collect()  # an error and its traceback refer to each other
    assert pool.used_bytes == 0
    assert torch.xpu.memory_allocated(0) == before


def test_a_file_that_is_cut_off_while_it_is_read_is_one_sentence(file: Path, pool: PinnedPool) -> None:
    before = torch.xpu.memory_allocated(0)
    spans = [
        Span(entry.start, entry.dtype, torch.empty(entry.shape, dtype=entry.dtype, device=DEVICE))
        for entry in entries(file)
    ]
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(LoadError, match=r"^model.safetensors was truncated while it was read: download it again\.$"):
        fill(file, DEVICE, spans, pool=pool, **SMALL)
    del spans
    assert_nothing_leaked(pool, before)


def test_a_disk_that_fails_is_one_sentence(pool: PinnedPool) -> None:
    """The process's own memory is such a file: beyond the last address there is, reading is an error."""
    before = torch.xpu.memory_allocated(0)
    held = torch.ones(300_000, dtype=torch.uint8)
    starts = (held.data_ptr(), 1 << 47)
    spans = [Span(start, torch.uint8, torch.empty(300_000, dtype=torch.uint8, device=DEVICE)) for start in starts]
    with pytest.raises(
        LoadError, match=r"^mem could not be read at byte \d+ \(Input/output error\): check the disk\.$"
    ):
        fill(Path("/proc/self/mem"), DEVICE, spans, pool=pool, **SMALL)
    del spans
    assert_nothing_leaked(pool, before)


def test_a_full_pinned_budget_is_one_sentence(file: Path) -> None:
    before = torch.xpu.memory_allocated(0)
    pool = PinnedPool(3 * CHUNK_BYTES)
    with pytest.raises(PinnedMemoryError, match=r"would exceed the limit .* unload a model or use a smaller one\.$"):
        read_all(file, DEVICE, pool=pool, **SMALL)
    assert_nothing_leaked(pool, before)


def test_a_device_that_is_too_small_leaks_nothing(file: Path, pool: PinnedPool, sim: xpu_sim.Simulation) -> None:
    before = torch.xpu.memory_allocated(0)
    sim.add_fault("runtime::malloc", "out_of_memory", nth=3, times=None)
    with pytest.raises(torch.OutOfMemoryError):
        read_all(file, DEVICE, pool=pool, **SMALL)
    sim.clear_faults()
    assert_nothing_leaked(pool, before)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data[:-1], "it ends before layer"),
        (lambda data: data + b"x", "it holds more than its header says"),
        (lambda data: b"\xff" * 16 + data, "it has no header"),
        (lambda data: data[:8] + b"x" + data[9:], "its header is damaged"),
        (lambda data: data.replace(b"data_offsets", b"data_offsetz"), "its header is damaged"),
        (lambda data: data.replace(b"[64,128]", b"[64,129]"), "is not where its header says"),
    ],
)
def test_a_damaged_file_is_refused_before_anything_is_allocated(
    file: Path, pool: PinnedPool, damage: object, sentence: str
) -> None:
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    before = torch.xpu.memory_allocated(0)
    with pytest.raises(LoadError, match=sentence):
        read_all(file, DEVICE, pool=pool, **SMALL)
    assert_nothing_leaked(pool, before)
