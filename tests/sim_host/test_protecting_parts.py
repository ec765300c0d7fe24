"""Whatever ours does in front of ComfyUI's functions, a prompt that stock would have finished is finished."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import ROOT, host_environment
from tests.harness.models import ensure_models

from .worker import answers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models("sd15-tiny-unet", "lora-sd15-tiny", "clip-l", "vae-sd15")
    base = tmp_path_factory.mktemp("protecting")
    return answers("protecting_cases", {"devices": ["arc-b580"] * 6}, base, host, host_environment())


def test_the_page_has_the_names_of_all_changes_as_they_are_to_be_typed(found: Any) -> None:
    table = (ROOT / "docs" / "protection.md").read_text(encoding="utf-8").partition("| name | in front of |")[2]
    named = [name for row in table.splitlines() if row for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(["protection", *found["names"]])


@pytest.mark.parametrize("how", ["ours", "not finite"])
def test_stocks_answer_is_given_where_ours_fails_and_stock_does_not(found: Any, how: str) -> None:
    """With the random numbers that stock would have drawn."""
    assert found["what_fails"][how] == found["what_fails"]["stock"]


@pytest.mark.parametrize(("how", "raised"), [("given up", "LadderExhausted"), ("stopped", "InterruptProcessing")])
def test_what_no_repetition_mends_is_not_repeated(found: Any, how: str, raised: str) -> None:
    assert raised in found["what_fails"][how]


def test_where_both_fail_the_first_failure_is_shown(found: Any) -> None:
    assert found["what_fails"]["both"] == "RuntimeError('ours')"


def test_whoever_is_in_front_the_call_is_answered(found: Any) -> None:
    told = found["who_is_in_front"]
    assert told["ours"] == "ours around stock Owner"
    assert told["theirs in front"] == "theirs around ours around stock Owner"
    assert told["hook"].endswith("for a test; tests.sim_host.protecting_cases was put in front of our named")
    assert told["put back by them"] == told["ours"]
    assert told["taken back behind theirs"] == "theirs around stock Owner"
    assert told["taken back"]
    assert told["missing"] == "missing: not possible, this ComfyUI has no function of that name"


def test_what_cannot_be_served_is_left_alone_with_its_reason(found: Any) -> None:
    assert found["what_is_left_alone"] == {
        "as it is": "",
        "compiled": "the model is compiled for its device",
        "replaced": "another node has replaced the diffusion model (compiled it, say)",
        "split": "the model is split over several devices",
        "its own network": "torch.nn.modules.linear brings a network of its own, which may tie its weights to a device",
        "elsewhere": "the model was given meta, which is not a device that this pack works with here",
        "another class": "tests.sim_host.protecting_cases brings a Owner of its own",
    }


def test_calls_of_models_that_are_not_placed_are_repeated(found: Any) -> None:
    assert found["repeated_calls"] == [True, "xpu:0"]


def test_and_survive_the_loss_of_device_after_device(found: Any) -> None:
    assert found["repeated_calls_on_lost_devices"] == [True] * 5


def test_the_cpu_takes_over_if_it_may(found: Any) -> None:
    told = found["the_cpu_takes_over_if_it_may"]
    first, second, third = told["asked"]
    assert first == "", "another device was there"
    assert re.match(r"Sample failed on xpu:5 \(.+\), only the CPU is left, and .+: queue the prompt again", second)
    assert third.startswith("xpu:0, xpu:1, xpu:2, xpu:3, xpu:4, xpu:5 was lost, only the CPU is left, and the CPU may")
    assert told["agreed"] < 1e-3
    assert told["no"].endswith("and ComfyUI's settings (XPU Nodes, Protection) do not let it take over.")
    assert told["yes"] == ""


def test_a_model_has_one_twin_as_long_as_it_lives_and_stays_the_same(found: Any) -> None:
    told = found["twins"]
    assert {name: told[name] for name in ("same", "same weights", "changed", "clone")} == dict.fromkeys(
        ("same", "same weights", "changed", "clone"), True
    )
    assert told["gone"] == [True, True, True]


@pytest.mark.parametrize("loader", ["GGUF-like", "read by the pack"])
def test_what_other_packs_load_into_comfyuis_networks_is_served(found: Any, loader: str) -> None:
    assert found["models_of_other_packs"][loader] == {"equal": True, "survived": True, "reason": ""}


def test_weights_of_another_pack_s_kind_survive_the_loss_of_device_after_device(found: Any) -> None:
    assert found["packed_weights_on_lost_devices"] == [True] * 5


def test_a_network_of_another_pack_is_left_alone(found: Any) -> None:
    told = found["models_of_other_packs"]["Nunchaku-like"]
    assert told["equal"]
    assert "OUT_OF_RESOURCES" in told["lost by"], "stock's own error is to be seen"
    assert told["reason"].startswith("tests.sim_host.other_packs brings a network of its own")


def test_a_pack_may_touch_what_the_switch_touches(found: Any) -> None:
    told = found["packs_that_touch_what_we_touch"]
    equal, called, reasons = told["meddling"]
    assert equal
    assert set(called) == {"load", "sample", "decode"}
    for reason, name in zip(reasons, ("load_diffusion_model", "sample", "decode"), strict=True):
        assert f"in front of tests.sim_host.other_packs's {name}" in reason
    equal, called, reasons = told["switched_on"]
    assert equal
    assert set(called) == {"load", "sample", "decode"}
    for reason, name in zip(reasons, ("load_diffusion_model", "sample", "decode"), strict=True):
        assert f"tests.sim_host.other_packs was put in front of our {name}" in reason


def test_a_node_that_calls_a_model_itself_is_repeated_on_another_device(found: Any) -> None:
    assert found["nodes_that_call_a_model_themselves"] == [True, "xpu:0", 2]


def test_generated_text_survives(found: Any) -> None:
    assert found["generated_text"] is True
