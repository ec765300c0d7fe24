"""Quantised models multiply in their own format where that was tested right and faster, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment

from .worker import answers


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    base = tmp_path_factory.mktemp("gates")
    devices = ["arc-b580", {"preset": "arc-b580", "total_bytes": 64 << 20}, "arc-b580"]
    return answers("gates_cases", {"devices": devices}, base, host, host_environment())


@pytest.fixture(scope="module")
def found(told: Any) -> Any:
    return told["gates"]


def test_a_device_that_is_right_and_faster_multiplies_in_the_files_format(found: Any) -> None:
    """Where ComfyUI can do that format by format: older ones list it as not possible, and compute as they did."""
    faster = found["faster"]
    assert (faster["products"] > 0, 0 < faster["distance"] < 0.05) == (found["by format"],) * 2
    expected = ("applied", "xpu:0 multiplies in fp8_e4m3, tested right and faster")
    assert ((faster["state"], faster["why"]) == expected) == found["by format"]
    assert (faster["state"] == "unavailable") != found["by format"]


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("slower", "takes 200% of the time"),
        ("wrong", "own product is wrong by"),
        ("beside OmniXPU", "another pack computes quantised layers"),
    ],
)
def test_a_device_that_is_wrong_or_slower_computes_what_the_weights_stand_for(
    found: Any, device: str, why: str
) -> None:
    assert (found[device]["products"], found[device]["distance"]) == (0, 0)
    assert ((found[device]["state"], why in found[device]["why"]) == ("stood down", True)) == found["by format"]


def test_a_model_that_leaves_for_the_cpu_takes_no_gate_with_it(found: Any) -> None:
    assert found["carried to the CPU"]["distance"] == found["slower, on the CPU"]["distance"]
    assert not found["the host's answer afterwards"]


@pytest.mark.parametrize("name", ["fp8_e4m3", "nvfp4", "mxfp8"])
def test_an_open_gate_gives_the_same_however_much_streams_and_whatever_fails(told: Any, name: str) -> None:
    if not told["gates"]["by format"]:
        assert told["streamed"] == {}
        return
    found = told["streamed"][name]
    assert found["tested"][0] == ([True, ""] if name == "fp8_e4m3" else [False, "CPU does not support swizzle."])
    assert found["tested"][1] == [True, ""], "by products of what the numbers stand for"
    assert found["products"][0] == 0 < found["products"][1]
    assert 0 < found["distance"] < 0.2
    assert {*found["equal"].values()} == {True}, found["equal"]


def test_a_loader_says_before_it_reads_what_will_happen(told: Any) -> None:
    outlooks = told["outlook"]["notes"]
    assert all("in scaled fp8_e4m3 and fp32" in note for note in outlooks)
    assert all("with a step at 1024x1024)" in note for note in outlooks), "the family is known by names and shapes"
    way = "; fp8_e4m3 is emulated there" if told["gates"]["by format"] else ""
    outcomes = (
        f"all of it stays there{way}",
        f"10% stays there, the rest streams{way}",
        f"too little even to stream: it goes on in smaller pieces, elsewhere or on the CPU{way}",
        "runs where its weights are",
    )
    assert [note.endswith(outcome) for note, outcome in zip(outlooks, outcomes, strict=True)] == [True] * 4, outlooks


def test_a_step_is_told_of_in_what_its_family_makes(told: Any) -> None:
    """Older hosts do not say how much of a video, or how many pixels, a latent is."""
    sizes, newer = told["sizes"], told["sizes"]["in time"]
    said = {name: [step and step[1] for step in sizes[name]] for name in ("SD3", "LTXV", "WAN21_T2V", "ACEStep")}
    assert said == {
        "SD3": ["832x480", "832x480"],
        "LTXV": ["832x480, 81 frames", "832x480, one frame"] if newer else [None, None],
        "WAN21_T2V": ["832x480, 81 frames" if newer else "832x480, one frame", "832x480, one frame"],
        "ACEStep": [None, None],
    }
    all_frames, one_frame = (step[0] for step in sizes["WAN21_T2V"])
    assert all_frames == pytest.approx((21 if newer else 1) * one_frame, rel=1e-6)


def test_a_format_is_said_to_be_native_only_where_its_gate_opens(told: Any) -> None:
    native = {
        "open": told["gates"]["by format"],
        "asked for fp16": False,
        "switched off": False,
        "without scales": False,
    }
    assert told["outlook"]["native"] == native


def test_weights_are_counted_in_the_format_that_they_are_loaded_in(told: Any) -> None:
    for said, held, note in told["counted"].values():
        assert said == pytest.approx(held, rel=0.02), note
    assert len({held for _, held, _ in told["counted"].values()}) == 4, "four formats"
