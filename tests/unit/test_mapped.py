"""Weights mapped from a file that changes while they are in use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from xpu_utils.weights.header import LoadError
from xpu_utils.weights.mapped import check_mapped, note_mapped


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file({"first": torch.ones(4096), "second": torch.ones(4096)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def weight(file: Path) -> torch.nn.Parameter:
    """A parameter that is the file's memory, as loaders leave it; nothing else holds what was mapped."""
    with safe_open(file, "pt") as opened:
        tensor = opened.get_tensor("second")
    note_mapped([tensor], file)
    parameter = torch.nn.Parameter(torch.empty(4096), requires_grad=False)
    parameter.data = tensor
    return parameter


def test_a_file_that_was_cut_is_told_before_it_is_read(
    file: Path, weight: torch.nn.Parameter, caplog: pytest.LogCaptureFixture
) -> None:
    check_mapped([weight])
    assert not caplog.text
    os.truncate(file, 100)
    with pytest.raises(LoadError, match=r"model.safetensors was cut while its weights were in use: put the whole"):
        check_mapped([weight])


def test_a_file_that_was_replaced_or_removed_stays_mapped_as_it_was(file: Path, weight: torch.nn.Parameter) -> None:
    (file.parent / "other").write_bytes(b"shorter")
    os.replace(file.parent / "other", file)
    check_mapped([weight])
    file.unlink()
    check_mapped([weight])
    assert bool((weight == 1).all())


def test_a_file_that_was_written_to_is_told_once(
    file: Path, weight: torch.nn.Parameter, caplog: pytest.LogCaptureFixture
) -> None:
    os.utime(file, ns=(0, 0))
    for _ in range(2):
        check_mapped([weight])
    assert caplog.text.count("model.safetensors was written to while its weights were in use.") == 1


def test_weights_that_were_copied_are_the_process_s_own(file: Path, weight: torch.nn.Parameter) -> None:
    weight.data = weight.data.clone()
    os.truncate(file, 100)
    check_mapped([weight])
