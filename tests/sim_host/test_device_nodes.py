"""ComfyUI's own device nodes give behind our loaders and place nodes what they give behind its own loaders.

For hosts that have them (Select Model / CLIP / VAE Device, MultiGPU CFG Split).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models("sd15-tiny")
    base = tmp_path_factory.mktemp("device-nodes")
    return answers("device_node_cases", {"devices": ["arc-b580", "arc-b580"]}, base, host, host_environment())


@pytest.mark.parametrize(
    ("behind", "device"),
    [
        ("cpu", "cpu"),
        ("gpu:1", "xpu:1"),
        ("gpu:1, placed", "xpu:0"),
        ("loaded to the cpu, gpu:0", "xpu:0"),
        ("placed, default", "xpu:1"),
    ],
)
def test_a_selected_model_gives_stocks_latent_on_its_device(found: Any, behind: str, device: str) -> None:
    told = found["a_model"][behind]
    assert (told["loads_to"], told["ran_on"]) == (device, [device])
    assert told["difference"] == 0


@pytest.mark.parametrize("behind", ["split", "placed, split", "split, placed"])
def test_a_split_model_shares_its_conditions_out_and_gives_stocks_latent(found: Any, behind: str) -> None:
    told = found["a_split_model"][behind]
    assert (told["ran_on"], told["difference"]) == (["xpu:0", "xpu:1"], 0)


@pytest.mark.parametrize("behind", ["split, gpu:1", "split, placed where the copy was"])
def test_a_split_model_is_whole_again_where_its_copy_was(found: Any, behind: str) -> None:
    told = found["a_split_model"][behind]
    assert (told["ran_on"], told["difference"]) == (["xpu:1"], 0)


def test_what_fails_on_a_copy_s_device_is_computed_on_the_model_s_in_the_same_bits(found: Any) -> None:
    assert found["a_split_model"]["split, out of memory on the copy's"]["difference"] == 0


def test_a_copy_s_lost_device_costs_neither_the_latent_nor_the_next_one(found: Any) -> None:
    told = found["the_lost_device_of_a_copy"]
    assert {run: (told[run]["difference"], told[run]["loads_to"]) for run in told} == {
        "lost": (0, "xpu:0"),
        "next": (0, "xpu:0"),
    }
    assert told["next"]["ran_on"] == ["xpu:0"]


def test_copies_stream_the_share_that_the_loader_was_asked_for(found: Any) -> None:
    told = found["a_model_with_a_share_resident"]
    assert (told["gpu:1"]["difference"], told["split"]["difference"]) == (0, 0)
    assert told["streams_to"] == ["xpu:1", "xpu:0", "xpu:1"]


def test_nothing_stays_loaded_under_a_copy_that_is_gone(found: Any) -> None:
    assert {name: told["under_nobody"] for name, told in found["a_split_model"].items() if told["under_nobody"]} == {}


@pytest.mark.parametrize(("selected", "device"), [("cpu", "cpu"), ("gpu:1", "xpu:1")])
def test_a_selected_text_encoder_gives_stocks_conditioning(found: Any, selected: str, device: str) -> None:
    told = found["a_clip"][selected]
    assert (told["loads_to"], told["ran_on"], told["difference"]) == (device, [device], 0)
    assert told["own_weights"], "it encodes with the weights of the device that it left"


@pytest.mark.parametrize("behind", ["gpu:1", "placed in bf16, gpu:1"])
def test_a_selected_vae_keeps_the_precision_that_it_was_loaded_or_placed_in(found: Any, behind: str) -> None:
    told = found["a_vae"][behind]
    assert (told["loads_to"], told["ran_on"], told["difference"]) == ("xpu:1", ["xpu:1"], 0)


def test_a_copy_on_a_device_has_none_of_the_cpu_s_stand_ins(found: Any) -> None:
    told = found["what_stands_in_on_the_cpu"]
    on_cpu, on_device = told["stand_ins"]
    assert on_cpu > on_device == 0
    assert told["ran_on"] == ["xpu:0"]
