"""DynamicVRAM forced on XPUs: what is placed, fails or is lost ends in stock's picture. For hosts that have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers

CLOSE = 1e-4
"""Of the spread: the CPU's sums of fp32 in another order."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models("sd15-tiny", "lora-sd15-tiny")
    base = tmp_path_factory.mktemp("dynamic")
    return answers("dynamic_cases", {"devices": ["arc-b580", "arc-b580"]}, base, host, host_environment())


def test_a_model_streams_by_the_host_and_gives_stocks_result(found: Any) -> None:
    told = found["sampling"]
    assert told["dynamic"] == [True, True]
    assert max(told["differences"]) < CLOSE
    assert told["present"] == ["comfy-aimdo", "DynamicVRAM"]


def test_a_share_is_not_followed_reads_the_file_once_and_is_said(found: Any) -> None:
    told = found["sampling"]
    assert told["reads"] == 1
    assert told["reason"] == "DynamicVRAM decides what stays on xpu:0, not 45%"
    stood_down = "weight streaming: off, DynamicVRAM streams the weights by itself"
    assert told["hooks"] == [stood_down, f"{stood_down}, a share of 45% is not followed"]


def test_the_switch_leaves_it_alone(found: Any) -> None:
    told = found["the_switch"]
    assert told["dynamic"]
    assert told["difference"] < CLOSE
    assert told["hook"].endswith("off, this ComfyUI streams the model's weights by itself")


def test_out_of_memory_everywhere_the_cpu_goes_on_and_the_model_comes_back(found: Any) -> None:
    told = found["out_of_memory"]
    assert told["ended"] == ["cpu", "xpu:0"]
    assert max(told["differences"]) < CLOSE
    assert told["dynamic"]


def test_a_core_loaders_model_goes_where_it_is_placed(found: Any) -> None:
    told = found["placed_elsewhere"]
    for device in ("cpu", "xpu:1"):
        assert told[device]["ended"] == device
        assert told[device]["difference"] < CLOSE
        assert told[device]["dynamic"] == (device != "cpu")
    assert told["said"].startswith("BaseModel cannot go to cpu: DynamicVRAM has it on xpu:0 and its loader does not")


def test_hooks_may_write_to_weights_that_came_from_a_read_only_mapping(found: Any) -> None:
    told = found["hooks_that_write_to_weights"]
    assert told["hooked"] < CLOSE
    assert told["plain"] > CLOSE, "the LoRA changes nothing"


def test_a_mapping_of_somebody_else_is_not_kept(found: Any) -> None:
    assert found["a_mapping_of_somebody_else"]


def test_a_lost_device_leaves_nothing_behind(found: Any) -> None:
    told = found["lost_device"]
    assert [run["ended"] for run in told["lost"]] == ["xpu:1", "cpu"]
    assert [run["held"] for run in told["lost"]] == [[], []]
    assert max(run["difference"] for run in told["lost"]) < CLOSE
    assert told["after"] < CLOSE
