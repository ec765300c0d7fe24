"""Attention on a simulated device without fused kernels, which grants 1 GiB at once; peaks are kept for the docs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment

from .matrix import OUT
from .worker import answers

GIB = 1 << 30
LIMIT_BYTES = GIB
RESULTS = OUT / "attention.json"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    device = {"preset": "arc-a770", "sdpa": "math", "total_bytes": 2 * GIB, "max_allocation_bytes": LIMIT_BYTES}
    result = answers(
        "attention_cases", {"devices": [device, device]}, tmp_path_factory.mktemp("attention"), host, host_environment()
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1))
    return result


@pytest.mark.parametrize("tokens", ["2048", "4096"])
def test_pieces_give_the_host_s_result_with_less_memory(found: Any, tokens: str) -> None:
    entry = found["peaks"][tokens]
    assert entry["largest_difference"] < 1e-5
    assert entry["ours"]["peak_bytes"] <= entry["stock"]["peak_bytes"]


def test_where_the_host_fails_pieces_fit(found: Any) -> None:
    entry = found["peaks"]["8192"]
    assert "error" in entry["stock"]
    assert entry["finite"]
    assert entry["ours"]["peak_bytes"] < LIMIT_BYTES


def test_scores_of_the_largest_pictures_stay_within_the_budget(found: Any) -> None:
    for entry in found["pictures"].values():
        assert entry["stock_scores_bytes"] > LIMIT_BYTES
        assert entry["largest_scores_bytes"] <= entry["budget_bytes"] <= LIMIT_BYTES


def test_the_vae_s_attention_block_goes_in_pieces(found: Any) -> None:
    block = found["vae_block"]
    assert block["largest_difference"] < 1e-2
    assert block["ours"]["peak_bytes"] < block["stock"]["peak_bytes"]


def test_how_to_attend_is_found_out_once_for_calls_of_one_kind_that_need_no_pieces(found: Any) -> None:
    assert found["kinds_of_calls"] == [1, 1, 2, 3, 4]


def test_products_take_the_place_of_slower_attention(found: Any) -> None:
    for entry in found["by_products"].values():
        assert entry["error"] < 3e-2
    assert {what: entry["own"] > 0 for what, entry in found["by_products"].items()} == {
        "whole": False,
        "pieces": False,
        "fp32": True,  # a model that asks for it has scores too large for the half formats
    }


def test_where_the_device_s_own_attention_is_wrong_it_is_computed_another_way(found: Any) -> None:
    wrong = found["wrong_head_dim"]
    assert wrong["stock"] > 0.01
    assert max(wrong["whole"], wrong["pieces"]) < 1e-5


def test_what_fits_is_one_plain_call(found: Any) -> None:
    one = found["one_piece"]
    assert one["same"]
    assert one["once"] == 1
    assert one["options"] == ["attn_precision", "transformer_options"]
    assert one["pieces"] > 1, "a budget set after a failure was not kept"


def test_free_memory_is_asked_for_once_a_model_call(found: Any) -> None:
    assert found["measured_once_a_call"] == {"asked": 1, "within": 0}


def test_another_pack_s_attention_is_left_in_place(found: Any) -> None:
    override = found["override"]
    assert override["untouched_reference"]
    assert override["ours"]
    assert override["wrappers"] == 1
    assert override["applied"].startswith("attention override: on")
    assert override["kept_theirs"]
    assert override["stood_down"] == ("attention override: off, another pack has set its own attention on the model")


def test_the_hosts_functions_that_limit_themselves_are_left_alone_until_a_budget_is_set(found: Any) -> None:
    called = found["functions_that_limit_themselves"]
    assert called["measured"] == 1
    assert called["set"] > 1


def test_beside_omnixpu_a_budget_cuts_as_it_does_without(found: Any) -> None:
    told = found["beside_omnixpu"]
    assert told["stock"] > 1
    assert told["theirs"] == [told["stock"]] * 2, "in both orders of loading"
    as_measured, after_a_failure = told["peaks"]
    assert after_a_failure < as_measured, "the attention rung lowers no peak"
    assert told["present"] == ["OmniXPU"]


def test_their_kernel_gets_what_it_takes_whole_and_pieces_of_what_it_does_not(found: Any) -> None:
    told = found["beside_omnixpu"]
    assert told["whole"] == [[1, 4, 1024, 128]]
    assert told["pieces"]
    assert all(shape[0] == 1 for shape in told["pieces"])
