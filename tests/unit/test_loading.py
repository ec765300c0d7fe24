"""Reading safetensors files on the CPU, and refusing damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.harness.filling import read_all
from xpu_utils.weights.header import LoadError, entries

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


def test_every_tensor_arrives_on_the_cpu_as_it_is(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    loaded = read_all(file, CPU)
    assert all(torch.equal(loaded[name].view(torch.uint8), value.view(torch.uint8)) for name, value in tensors.items())


def test_what_is_filled_is_converted_to_what_it_is(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    loaded = read_all(file, CPU, dtype=torch.bfloat16)
    assert loaded["half"].dtype == torch.bfloat16
    assert torch.equal(loaded["half"], tensors["half"].to(torch.bfloat16))


def test_progress_ends_at_the_whole(file: Path) -> None:
    seen: list[int] = []
    read_all(file, CPU, progress=seen.append)
    assert sum(seen) == 30 + 7 + 32


def test_weights_of_all_sizes_are_read_in_even_shares(tmp_path: Path) -> None:
    """A large weight is shared among threads, many small ones go to one at a time."""
    values = {"large": torch.randn(3000, 2001).half()} | {
        f"small {index}": torch.randn(300).half() for index in range(99)
    }
    path = tmp_path / "mixed.safetensors"
    save_file(values, path)
    seen: list[int] = []
    loaded = read_all(path, CPU, dtype=torch.float32, threads=2, progress=seen.append)
    assert len(seen) == 3
    assert max(seen) <= 5 << 20
    assert all(torch.equal(loaded[name], value.float()) for name, value in values.items())


def test_a_truncated_file_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(LoadError, match=r"model.safetensors is truncated or corrupt"):
        read_all(file, CPU)


def test_a_format_without_a_dtype_is_no_damage(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"F8_E4M3"', b'"F6_E4M3"'))
    assert {entry.name: entry.dtype for entry in entries(file)}["eighth"] is None


def test_a_file_that_has_changed_is_read_again(file: Path, tmp_path: Path) -> None:
    assert len(entries(file)) == 4
    save_file({"one": torch.ones(2)}, tmp_path / "other")
    (tmp_path / "other").replace(file)
    assert [entry.name for entry in entries(file)] == ["one"]
