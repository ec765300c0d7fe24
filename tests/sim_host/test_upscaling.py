"""Upscaling on a simulated device that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment

from .worker import answers

TOLERANCE = 0.1
"""Tiles of another size have other borders, where the network pads with zeros; random weights see far."""


by_both = pytest.mark.parametrize("node", ["ours", "stock_node"])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    base = tmp_path_factory.mktemp("upscaling")
    return answers("upscaling_cases", {"devices": ["arc-b580"] * 2}, base, host, host_environment())


def test_the_picture_is_the_cpu_s(found: Any) -> None:
    assert found["undisturbed"]["device"] == "xpu:0"
    assert found["undisturbed"]["largest_difference"] < 1e-5
    assert found["undisturbed"]["spread"] > 0.01


@by_both
def test_after_a_driver_s_out_of_memory_the_tile_is_halved(found: Any, node: str) -> None:
    once = found["once_out_of_memory"][node]
    assert once["fired"] == [1]
    assert once["device"] == "xpu:0"
    assert once["largest_difference"] < TOLERANCE


@by_both
def test_after_the_smallest_tile_the_next_device_carries_on_and_later_work_is_where_it_was(
    found: Any, node: str
) -> None:
    first = found["first_device_out_of_memory"][node]
    assert first["fired"] == [4], "512, 256 and 128 pixels, and once more after memory was freed"
    assert first["device"] == "xpu:1"
    assert first["reason"] == "out of memory on xpu:0, continued on xpu:1"
    assert first["largest_difference"] < TOLERANCE
    assert first["next_device"] == "xpu:0"
    assert first["on_host"]


@by_both
def test_after_the_last_device_the_cpu_carries_on(found: Any, node: str) -> None:
    always = found["always_out_of_memory"][node]
    assert always["device"] == "cpu"
    assert always["largest_difference"] < TOLERANCE
    assert always["next_device"] == "xpu:0"


@pytest.mark.parametrize(("way", "shares"), [("copy", True), ("deepcopy", False)])
def test_a_copy_is_placed_alike_by_a_patcher_of_its_own(found: Any, way: str, shares: bool) -> None:
    told = {"device": "xpu:1", "equal": True, "same_patcher": False, "same_weights": shares}
    assert found["copies"][way] == told


def test_what_cannot_be_pickled_is_the_model_within(found: Any) -> None:
    stock, placed = found["pickles"]
    assert placed == stock


def test_a_lost_device_costs_no_picture(found: Any) -> None:
    first = found["lost"]["first"]
    assert first["device"] == "xpu:1"
    assert first["lost"] == ["xpu:0"]
    assert first["largest_difference"] < 1e-5
    assert found["lost"]["next"]["device"] == "xpu:1"
    assert found["lost"]["next"]["largest_difference"] < 1e-5
