"""Reading safetensors files on the CPU, and refusing damaged ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xpu_utils.weights.fill import load_safetensors
from xpu_utils.weights.header import LoadError

CPU = torch.device("cpu")


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {
        "half": torch.randn(3, 5).half(),
        "eighth": torch.randn(7).to(torch.float8_e4m3fn),
        "index": torch.arange(4),
        "empty": torch.empty(0, 2),
    }


@pytest.fixture
def file(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    return path


def test_the_cpu_maps_the_file_without_a_copy(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    loaded = load_safetensors(file, CPU)
    assert all(torch.equal(loaded[name].view(torch.uint8), value.view(torch.uint8)) for name, value in tensors.items())
    maps = Path("/proc/self/maps")
    if maps.is_file():
        address = loaded["half"].data_ptr()
        lines = [line.split() for line in maps.read_text().splitlines() if str(file) in line]
        spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
        assert any(start <= address < stop for start, stop in spans)


def test_only_wide_floats_are_converted(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    loaded = load_safetensors(file, CPU, dtype=torch.bfloat16)
    assert loaded["half"].dtype == torch.bfloat16
    assert loaded["eighth"].dtype == torch.float8_e4m3fn
    assert loaded["index"].dtype == torch.int64
    assert torch.equal(loaded["half"], tensors["half"].to(torch.bfloat16))


def test_progress_ends_at_the_whole(file: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_safetensors(file, CPU, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30 + 7 + 32, 30 + 7 + 32)


def test_weights_of_all_sizes_are_read_in_even_shares(tmp_path: Path) -> None:
    """A large weight is shared among threads, many small ones go to one at a time."""
    values = {"large": torch.randn(3000, 2001).half()} | {
        f"small {index}": torch.randn(300).half() for index in range(99)
    }
    path = tmp_path / "mixed.safetensors"
    save_file(values, path)
    seen: list[int] = []
    loaded = load_safetensors(path, CPU, dtype=torch.float32, threads=2, progress=lambda done, total: seen.append(done))
    shares = [after - before for before, after in itertools.pairwise(seen)]
    assert len(shares) == 3
    assert max(shares) <= 5 << 20
    assert all(torch.equal(loaded[name], value.float()) for name, value in values.items())


def test_a_truncated_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(LoadError, match=r"model.safetensors could not be read"):
        load_safetensors(file, CPU)
