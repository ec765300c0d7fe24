"""The trained checkpoint: ComfyUI's loaders detect it, and what it draws is what was asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.harness.models import ensure_models
from tests.harness.server import Server
from tests.training.checkpoint import FOLDER, NAME, trained
from tests.training.judge import named
from tests.training.score import Row, drawn, psnr_db

SUBJECTS = ("octopus", "red apple", "rocket", "panda face")
CLOSE_DB = 24
"""What a picture in bf16 is within of the one in fp32: one subject at one place, other strokes."""


@pytest.fixture(scope="module", autouse=True)
def checkpoint() -> None:
    ensure_models(NAME)


@pytest.fixture(scope="module")
def reference(server: Server) -> torch.Tensor:
    return torch.stack(list(drawn(server, SUBJECTS, Row("cpu", "fp32"))))


def test_pictures_in_fp32_show_what_was_asked_for(reference: torch.Tensor) -> None:
    assert named(reference, trained("judge")) == list(SUBJECTS)


def test_pictures_in_what_this_cpu_computes_fastest_show_it_too_and_are_close(
    server: Server, reference: torch.Tensor
) -> None:
    pictures = torch.stack(list(drawn(server, SUBJECTS, Row("cpu", "auto"))))
    assert named(pictures, trained("judge")) == list(SUBJECTS)
    assert min(psnr_db(*pair) for pair in zip(pictures, reference, strict=True)) > CLOSE_DB


def test_the_judge_does_not_name_noise_as_it_names_pictures(reference: torch.Tensor) -> None:
    noise = torch.rand(reference.shape, generator=torch.Generator().manual_seed(0))
    assert named(noise, trained("judge")) != list(SUBJECTS)


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"sha256": null}', None])
def test_so_are_weights_whose_record_is_missing_or_damaged(record: str | None, tmp_path: Path) -> None:
    shutil.copy(FOLDER / f"{NAME}.safetensors", tmp_path)
    if record is not None:
        (tmp_path / "training.json").write_text(record, encoding="utf-8")
    with pytest.raises(ValueError, match=r"emoji\.safetensors: the trained weights are missing or damaged"):
        trained(NAME, tmp_path)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_damaged_weights_are_refused_in_one_sentence(damage: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    file = tmp_path / f"{NAME}.safetensors"
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"emoji\.safetensors: the trained weights are missing or damaged"):
        trained(NAME, tmp_path)
