"""MODELs held in int8: half the memory, close to floats, patched, streamed, lost and found again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models
from xpu_utils.machine.cache import DIRECTORY_VARIABLE

from .worker import answers

CLOSE = 0.1
"""Relative error against fp32 of a latent after two steps with random weights; a wrong layer makes it 1 and more."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models("sd15-tiny-unet", "lora-sd15-tiny", "controlnet-sd15-tiny", "vae-sd15", "emoji")
    base = tmp_path_factory.mktemp("int8")
    environment = {**host_environment(), DIRECTORY_VARIABLE: str(base)}  # a self-test finds something wrong here
    return answers("int8_cases", {"devices": ["arc-b580", "arc-a770"]}, base, host, environment)


@pytest.mark.parametrize("device", ["cpu", "xpu:0"])
def test_a_loaded_model_holds_its_blocks_in_half_the_memory_and_stays_close(found: Any, device: str) -> None:
    told = found["a_loaded_model"][device]
    assert told["told"] == [device, "int8", ""]
    assert told["layers"] > 50
    assert not told["sensitive"]
    assert told["held"] < 0.52
    assert told["size"] < 0.85, "most of this network is convolutions"
    assert 0 < told["error"] < CLOSE


def test_a_picture_of_a_trained_model_stays_close_with_every_layer_in_int8(found: Any) -> None:
    assert found["a_picture"] > 34


def test_what_streams_answers_what_is_resident_to_the_bit(found: Any) -> None:
    assert found["streamed"] is True


@pytest.mark.parametrize("order", ["after loading", "before placing", "streamed"])
def test_a_lora_is_followed_whenever_it_comes(found: Any, order: str) -> None:
    assert found["a_lora"]["change"] > 5 * CLOSE
    assert found["a_lora"][order] < CLOSE


def test_a_lora_that_is_left_out_again_leaves_the_weights_as_they_were(found: Any) -> None:
    assert found["a_lora"]["without it again"] < CLOSE
    assert found["a_lora"]["as before"] is True


def test_a_placed_model_is_in_int8_while_it_works_and_another_clone_never(found: Any) -> None:
    told = found["a_placed_model"]
    assert told["told"] == ["xpu:0", "int8", ""]
    assert told["held"] is True
    assert 0 < told["error"] < CLOSE
    assert (told["as before"], told["the other"]) == (True, True)


def test_where_memory_runs_out_while_layers_are_packed_they_begin_again_from_floats(found: Any) -> None:
    told = found["memory_that_runs_out"]
    (held,) = told["held"]
    assert told["packed"] == 41 + held
    assert told["as before"] is True


@pytest.mark.parametrize("way", ["loaded", "placed"])
def test_loras_that_are_hooked_to_conditions_are_followed(found: Any, way: str) -> None:
    assert found["hooks"]["change"] > 5 * CLOSE
    assert found["hooks"][way] < CLOSE


def test_a_control_lora_is_given_floats(found: Any) -> None:
    told = found["a_control_lora"]
    assert told["change"] > 5 * told["int8"]
    assert told["int8"] < CLOSE


def test_what_was_loaded_in_int8_is_not_saved_and_what_was_placed_is(found: Any) -> None:
    said, written, placed = found["saved"]
    assert said.startswith("A model that was loaded in int8 cannot be saved")
    assert (written, placed) == (False, True)


def test_the_switch_holds_diffusion_models_in_int8_and_says_nothing_of_it_of_others(found: Any) -> None:
    told = found["the_switch"]
    assert told["model"] == ["xpu:0", "int8", ""]
    assert 0 < told["error"] < CLOSE
    assert (told["vae"][0], told["vae"][2]) == ("xpu:0", "")


@pytest.mark.parametrize("way", ["plain", "lora"])
def test_floats_that_work_on_the_cpu_work_in_int8_there_and_on_a_card_and_as_before_after(found: Any, way: str) -> None:
    told = found["floats_of_the_cpu"][way]
    assert told["told"] == [["cpu", "int8", ""], ["xpu:0", "int8", ""]]
    assert all(0 < error < CLOSE for error in told["errors"])
    assert told["floats again"] is True
    assert found["floats_of_the_cpu"]["fp32 again"] is True


def test_weights_that_were_loaded_in_int8_stay_so_and_that_is_said(found: Any) -> None:
    precision, (stays, how_many), held = found["an_int8_model_in_bf16"]
    assert (precision, stays, held) == ("bf16", "the weights were loaded in int8, and stay so", True)
    assert re.fullmatch(r"\d+ of \d+ layers held in int8 compute in it.*", how_many)


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("other_kinds", ["bf16", "int8 is for diffusion models, not for a VAE"]),
        (
            "fp8_weights",
            ["cpu", "bf16", "none of its layers can be held in int8: they are quantised already, or of another kind"],
        ),
        ("without_products", ["xpu:1", "fp16", "xpu:1 computes int8 wrongly or not at all (self-test)"]),
    ],
)
def test_where_int8_cannot_be_the_next_best_is_taken_and_said(found: Any, case: str, told: list[str]) -> None:
    assert found[case] == told


def test_after_a_lost_device_a_model_comes_back_in_int8(found: Any) -> None:
    told = found["zz_lost"]
    assert told["error"] < CLOSE
    assert told["told"] == ["xpu:1", "int8"]
    assert (told["in int8"], told["same"]) == (True, True)
