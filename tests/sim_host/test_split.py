"""Several cards in one graph: each gets what it is done with first, and a card that fails costs time, not the picture.

For hosts that have MultiGPU CFG Split; what a condition takes on each card is given, not measured.
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
    base = tmp_path_factory.mktemp("split")
    return answers("split_cases", {"devices": ["arc-b580"] * 3}, base, host, host_environment())


def counted(told: Any) -> set[str]:
    """How many conditions each card has computed, by the report."""
    (line,) = [note for note in told["notes"] if note.startswith("conditions computed: ")]
    return set(line.removeprefix("conditions computed: ").split(", "))


@pytest.mark.parametrize(
    ("cards", "counts"),
    [
        ("equal_cards", {"4 on xpu:0", "4 on xpu:1"}),
        ("a_copy_of_half_the_speed", {"4 on xpu:0", "4 on xpu:1"}),
        ("a_copy_of_a_third_of_the_speed", {"6 on xpu:0", "2 on xpu:1"}),
        ("a_model_s_own_card_of_a_third_of_the_speed", {"2 on xpu:0", "6 on xpu:1"}),
        ("six_conditions_on_equal_cards", {"12 on xpu:0", "12 on xpu:1"}),
        ("six_conditions_with_a_copy_of_half_the_speed", {"14 on xpu:0", "10 on xpu:1"}),
    ],
)
def test_conditions_go_where_the_step_ends_first_and_have_the_same_bits(
    found: Any, cards: str, counts: set[str]
) -> None:
    assert counted(found[cards]) == counts
    same = "six_conditions_on_equal_cards" if "six" in cards else "one_card_with_one_condition_a_call"
    assert found[cards]["picture"] == found[same]["picture"]


def test_a_card_that_is_left_out_is_said_with_both_times(found: Any) -> None:
    said = (
        "xpu:1 computes nothing more in this run: a condition takes 3 s there, 1 s on xpu:0, and the others are done "
        "sooner without it"
    )
    assert said in found["a_copy_of_a_third_of_the_speed"]["notes"]
    assert not any("nothing more" in note for note in found["a_copy_of_half_the_speed"]["notes"])


def test_switched_off_comfyui_shares_out_by_itself(found: Any) -> None:
    assert not any("conditions computed" in note for note in found["without_us"]["notes"])
    assert found["without_us"]["picture"] == found["equal_cards"]["picture"]


@pytest.mark.parametrize(
    ("failing", "whole", "said", "counts"),
    [
        (
            "no_memory_on_the_copy_s_card",
            "equal_cards",
            "xpu:1: out of memory at step 1: continued with xpu:0",
            {"8 on xpu:0"},
        ),
        (
            "no_memory_on_the_model_s_own_card",
            "equal_cards",
            "xpu:0: out of memory at step 1: continued with xpu:1",
            {"8 on xpu:1"},
        ),
        (
            "y_the_third_card_gives_no_answer",
            "three_cards",
            "xpu:2: no answer from the device at step 1: continued with xpu:0, xpu:1",
            {"8 on xpu:0", "4 on xpu:1"},
        ),
        (
            "z_the_model_s_own_card_is_lost",
            "equal_cards",
            "xpu:0: device lost at step 1: continued with xpu:1",
            {"8 on xpu:1"},
        ),
    ],
)
def test_a_card_that_fails_costs_no_bit_and_is_said(
    found: Any, failing: str, whole: str, said: str, counts: set[str]
) -> None:
    told = found[failing]
    assert told["picture"] == found[whole]["picture"]
    assert told["faults"][-1] == said
    assert counted(told) == counts


def test_a_lost_card_that_comfyui_offers_again_is_left_alone(found: Any) -> None:
    told = found["y_z_the_lost_card_is_offered_again"]
    assert (told["faults"], counted(told)) == ([], {"4 on xpu:0", "4 on xpu:1"})
    assert told["picture"] == found["equal_cards"]["picture"]


def test_an_interrupt_ends_the_run_on_whichever_card_it_is_met(found: Any) -> None:
    assert found["an_interrupt_on_the_copy_s_card"] == "ended"


def test_the_benchmark_compares_both_ways_of_sharing_out(found: Any) -> None:
    code, text = found["the_benchmark"]
    assert code == 0
    assert [line.split("  ")[0] for line in text.splitlines()[2:]] == [
        *("xpu:0 alone", "xpu:1 alone", "both, evenly (ComfyUI)", "both, by speed"),
        "Both ways of sharing out give the same bits.",
    ]
