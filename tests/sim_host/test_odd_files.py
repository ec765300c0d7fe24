"""Model files of the kinds that people post give what ComfyUI makes of them; what cannot is told as what it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers

Answers = Callable[[str], Any]
EVERY = pytest.param("every_odd_file_cases", marks=pytest.mark.matrix)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Answers:
    """What a module of cases answers."""
    ensure_models("sd15-tiny", "sd15-tiny-unet", "vae-sd15", "lora-sd15-tiny")
    base = tmp_path_factory.mktemp("odd-files")
    return functools.cache(lambda module: answers(module, {"devices": ["arc-b580"]}, base, host, host_environment()))


@pytest.mark.parametrize("cases", ["odd_file_cases", EVERY])
def test_they_are_read_as_by_comfyui_s_own_way(found: Answers, cases: str) -> None:
    told = found(cases)
    files = {**told["files"], **told.get("checkpoints", {}), **told.get("vaes", {})}
    assert {name: differs for name, differs in files.items() if differs} == {}


@pytest.mark.parametrize("cases", ["odd_file_cases", EVERY])
def test_a_lora_of_any_kind_changes_the_same_weights(found: Answers, cases: str) -> None:
    for told in found(cases)["loras"].values():
        ours, hosts = told["changed"]
        assert ours == hosts >= 14
        assert told["differ"] == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("renamed.safetensors", "is a GGUF file, not a safetensors file: get the right file."),
        ("json.safetensors", "is a text in JSON, perhaps a failed download, not a safetensors file: get the"),
        ("xml.safetensors", "is a web page, perhaps a failed download, not a safetensors file: get the right file."),
        ("half-00001-of-00002.safetensors", "is part 1 of the 2 that a model was split into, and ComfyUI loads one"),
        ("diffusers.safetensors", "holds no model that ComfyUI knows: choose another file."),
        ("unknown.ckpt", "is a pickle that holds more than weights and was not read: use a .safetensors file."),
        ("upscaler.pt", "is a TorchScript program, which ComfyUI does not load: get the model's weights as a"),
    ],
)
def test_what_cannot_be_loaded_is_told_as_what_it_is(found: Answers, name: str, says: str) -> None:
    assert found("odd_file_cases")["refused"][name].startswith(f"{name} {says}")
