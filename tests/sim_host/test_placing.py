"""Placing again changes what was asked for and nothing else; what is not followed is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers

LAYOUTS = ("sd15-tiny-unet", "clip-l", "clip-vision-l", "vae-sd15", "controlnet-sd15-tiny")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models(*LAYOUTS)
    base = tmp_path_factory.mktemp("placing")
    return answers("placing_cases", {"devices": ["arc-b580", "arc-b580"]}, base, host, host_environment())


def test_the_conditions_of_a_streamed_model_are_computed_together_where_they_really_fit(found: Any) -> None:
    """Its weights cross the link once for each call; ComfyUI asks for 1.5 times its estimate, which is too high."""
    assert found["conditions_of_a_step"] == {
        "45%": {"batches": [2, 2], "restored": True},
        "all": {"batches": [1, 1, 1, 1], "restored": True},
    }


def test_another_precision_leaves_a_model_on_its_device_with_its_resident_share(found: Any) -> None:
    told = found["a_model_in_another_precision"]
    before = {"requested": "xpu:1", "device": "xpu:1", "precision": "fp16", "resident": "45%", "reason": ""}
    assert told["untouched"] == before
    assert told["precision"] == {**before, "precision": "fp32"}
    assert told["load_device"] == "xpu:1"


def test_another_device_keeps_the_resident_share(found: Any) -> None:
    told = found["a_model_in_another_precision"]["device"]
    assert (told["device"], told["resident"]) == ("xpu:0", "45%")


def test_a_host_copy_of_weights_is_given_back_while_host_memory_is_short(found: Any) -> None:
    assert found["a_host_copy"] == [True, False, True]


@pytest.mark.parametrize("what", ["a_vae", "an_upscaler"])
def test_another_precision_leaves_other_models_on_their_device(found: Any, what: str) -> None:
    told = found[f"{what}_in_another_precision"]
    assert (told["device"], told["precision"]) == ("xpu:1", "bf16")


def test_an_argument_that_has_vaes_on_the_cpu_is_obeyed_and_a_node_s_own_choice_is_said_to_win(found: Any) -> None:
    told = found["a_vae_with_cpu_vae"]
    reason = "ComfyUI was started with --cpu-vae"
    on_cpu = {"requested": "auto", "device": "cpu", "precision": "fp32", "resident": "auto", "reason": reason}
    assert told["auto"] == {**on_cpu, "computes on": "cpu"}
    assert told["again"] == on_cpu
    assert told["xpu:1"] == ["--cpu-vae is not followed, as xpu:1 was chosen here"]


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("a_text_encoder_in_bf16", "a text encoder computes in fp32 on xpu:0, not in bf16"),
        ("a_clip_vision_model_in_fp16", "a CLIP vision model computes in fp32 on xpu:0, not in fp16"),
    ],
)
def test_a_precision_that_is_not_followed_is_said(found: Any, case: str, reason: str) -> None:
    assert (found[case]["precision"], found[case]["reason"]) == ("fp32", reason)


@pytest.mark.parametrize("what", ["clip", "clip_vision"])
def test_another_pack_s_encoder_stays_of_its_kind(found: Any, what: str) -> None:
    told = found[f"another_pack_s_{what}"]
    assert (told["kind"], told["encoded"], told["ran_on"]) == (True, 1, "xpu:0")


def test_a_placed_clip_has_options_of_its_own(found: Any) -> None:
    assert found["another_pack_s_clip"]["options_of_the_original"] == {}


@pytest.mark.parametrize("kind", ["MODEL", "VAE", "CONTROL_NET", "UPSCALE_MODEL"])
def test_one_node_places_whatever_a_loader_made(found: Any, kind: str) -> None:
    assert found["whatever_a_loader_made"][kind] == ["xpu:1", "xpu:1", ""]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("MODEL_PATCH", "a model patch runs where the model runs that it is for"),
        ("AUDIO_ENCODER", "ComfyUI alone decides where this kind of model runs"),
        ("AUDIO_VAE", "ComfyUI alone decides where this kind of model runs"),
    ],
)
def test_what_cannot_be_placed_stays_and_is_said(found: Any, kind: str, reason: str) -> None:
    assert found["whatever_a_loader_made"][kind] == ["xpu:0", "xpu:0", reason]


def test_an_audio_vae_with_a_manager_of_its_own_is_refused_where_pictures_are_decoded(found: Any) -> None:
    assert found["an_audio_vae_with_a_manager_of_its_own"] == (
        "ComfyUI alone decides where this AudioVAE runs: connect it to ComfyUI's own nodes."
    )


@pytest.mark.parametrize("case", ["a_t2i_adapter", "a_control_lora"])
def test_what_goes_with_the_sampled_model_does_not_claim_the_device_that_was_asked_for(found: Any, case: str) -> None:
    told = found[case]
    assert (told["requested"], told["device"]) == ("xpu:1", "xpu:0")
    assert told["reason"] == "this kind of ControlNet runs where the sampled model runs"


def test_a_controlnet_takes_inputs_from_another_device_and_answers_there(found: Any) -> None:
    told = found["a_controlnet_on_another_device_than_its_inputs"]
    assert (told["weights"], told["outputs"]) == ("xpu:1", ["xpu:0"])
    assert told["after"], "the shared module keeps its own forward once the placement is unloaded"
    (hook,) = told["hook"]
    assert hook.startswith("ControlNet bridge: on")


def test_a_controlnet_without_the_bridge_stays_where_comfyui_puts_it(found: Any) -> None:
    told = found["a_controlnet_without_the_bridge"]
    assert (told["device"], told["patches"]) == ("xpu:0", [])
    assert told["reason"] == "ControlNet bridge is switched off, so it runs where ComfyUI puts it"


def test_attention_in_vaes_is_not_said_to_be_ours_where_there_is_none(found: Any) -> None:
    assert found["a_vae_without_attention"] == ["vae attention: not needed yet, nothing has called for it yet"]


def test_a_stock_loader_that_is_a_v3_node_offers_and_loads_the_same(found: Any) -> None:
    assert found["a_v3_loader_of_the_host"] == {"same": True, "loaded": "xpu:1"}


def test_a_resident_share_that_is_not_followed_is_said(found: Any) -> None:
    told = "resident 45% is not followed"
    assert found["a_share_that_is_not_followed"] == {
        "cpu": [f"{told}: the model runs on the CPU, where its weights already are"],
        "xpu:0": [f"{told}: weight streaming is switched off"],
        "xpu:1": [],
    }
