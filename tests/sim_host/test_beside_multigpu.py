"""Beside MultiGPU a load goes where it was asked to; what DisTorch or another pack's weights take from us is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers

# More device than host memory, so that ComfyUI builds models on its default device.
DEVICES = [{"preset": "arc-b580", "total_bytes": 64 << 30}] * 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models("sd15-tiny", "sd15-tiny-unet")
    base = tmp_path_factory.mktemp("multigpu")
    return answers("multigpu_cases", {"devices": DEVICES}, base, host, host_environment())


@pytest.mark.parametrize("what", ["checkpoint", "diffusion model"])
def test_loading_to_the_second_device_copies_no_weight_to_the_first(found: Any, what: str) -> None:
    told = found["loading_to_another_device_than_theirs"][what]
    first, second = told["bytes"]
    assert told["devices"] == ["xpu:1"]
    assert first < 1 << 14, "noise levels, which ComfyUI's checkpoint loader moves by itself"
    assert second >= told["weights"]


def test_a_model_of_distorch_is_left_to_it_and_the_hook_says_so(found: Any) -> None:
    told = found["a_model_that_distorch_shares_out"]
    assert told["present"] == "tests.neighbours.multigpu; DisTorch"
    assert told["attached"].startswith("weight streaming: on")
    stood_down = "weight streaming: off, DisTorch has shared the model out among devices"
    assert (told["taken"], told["again"], told["same"]) == (stood_down, stood_down, "True")


def test_weights_that_do_not_tell_what_they_are_do_not_stream(found: Any) -> None:
    told = found["weights_of_another_kind"]
    assert told["told"] == "weight streaming: off, nothing tells of what Coded tensors are made"
    assert told["same"] == "True"
