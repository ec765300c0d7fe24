"""A placed VAE with little memory, and after failures: real ComfyUI code on a simulated device.

Random weights: a norm over a tile of noise differs more from the norm over the whole than it would in a trained VAE,
so the differences below are upper bounds of their kind: pictures are in 0..1, latents of size about 1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment

from .worker import answers

MIB = 1 << 20
LIMIT_BYTES = 20 * MIB


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    base = tmp_path_factory.mktemp("vae")
    profiles = base / "profiles.json"
    profiles.write_text(json.dumps({"alchemist": {"single_allocation_limit_bytes": LIMIT_BYTES}}))
    small = {"preset": "arc-a770", "max_allocation_bytes": LIMIT_BYTES}
    environment = {**host_environment(), "XPU_NODES_PROFILES": str(profiles)}
    return answers("vae_cases", {"devices": ["arc-b580", small]}, base, host, environment)


@pytest.mark.parametrize("case", ["kl_decode", "kl_encode", "taesd_decode", "video_in_space", "video_encode"])
def test_what_fits_is_the_host_s_bit_for_bit(found: Any, case: str) -> None:
    whole = found[case]["whole"]
    assert whole["tile"] is None
    assert whole["equal"]
    assert whole["spread"] > 0.01, "a constant result would equal anything"


def test_a_picture_s_latent_with_a_time_axis_is_decoded_as_without(found: Any) -> None:
    whole, tiled = found["a_picture_with_time"]
    assert (whole["tile"], whole["equal"]) == (None, True)
    assert tiled["tile"] is not None
    assert tiled["equal"]


def test_where_the_model_lays_its_own_tiles_their_size_is_chosen_here_all_the_same(found: Any) -> None:
    told = found["tiles_that_the_model_lays"]
    assert told["shape"]
    assert told["tile"] is not None
    assert told["why"] == "because the whole ran out of memory"


def test_the_host_notes_the_formats_that_weights_have(found: Any) -> None:
    told = found["formats_that_the_host_notes"]
    assert len(told["while"]) == 2, "in bf16, and in fp32 after NaN"
    assert [told["placed"], *told["while"], told["after"]] == [[], [], [], []]


@pytest.mark.parametrize(
    ("case", "side", "largest_difference", "mean_difference"),
    [
        ("kl_decode", 128, 0.5, 0.05),
        ("kl_decode_larger", 384, 0.2, 0.015),
        ("taesd_decode", 128, 0.01, 0.001),
        ("kl_encode", 128, 0.6, 0.1),
        ("video_in_space", 128, 1.0, 0.07),
        ("video_encode", 128, 1.0, 0.07),
    ],
)
def test_with_little_memory_tiles_are_chosen_before_a_failure(
    found: Any, case: str, side: int, largest_difference: float, mean_difference: float
) -> None:
    tiled = found[case]["tiled"]
    assert tiled["tile"]["side_pixels"] == side
    assert "GiB are free" in tiled["why"]
    assert tiled["shape"]
    assert not tiled["equal"]
    assert tiled["largest_difference"] <= largest_difference
    assert tiled["mean_difference"] <= mean_difference


@pytest.mark.parametrize(
    ("case", "largest_seam"),
    [
        ("kl_decode", 0.6),
        ("kl_decode_larger", 0.2),
        ("taesd_decode", 0.7),
        ("video_in_space", 1.0),
    ],
)
def test_no_column_of_a_tiled_picture_stands_out(found: Any, case: str, largest_seam: float) -> None:
    """In mean steps from column to column of the picture itself."""
    assert found[case]["tiled"]["seam"] < largest_seam


def test_a_batch_is_decoded_picture_by_picture_where_memory_is_short(found: Any) -> None:
    assert found["batch_picture_by_picture"]["tile"] is None
    assert found["batch_picture_by_picture"]["equal"]


def test_video_whose_need_grows_with_time_is_cut_in_time_with_a_progress_bar(found: Any) -> None:
    video = found["video_in_time"]
    assert video["tile"]["latent_frames"] == 2
    assert video["shape"]
    (bar,) = video["progress"]
    assert bar[0] == bar[1] > 1


@pytest.mark.parametrize("kind", ["out_of_memory", "native_api_39"])
def test_after_a_want_of_memory_the_whole_is_repeated_and_after_a_second_done_in_tiles(found: Any, kind: str) -> None:
    once, twice = found["retries"][kind]["1"], found["retries"][kind]["2"]
    assert (once["fired"], twice["fired"]) == ([1], [2])
    assert once["tile"] is None
    assert once["equal"]
    assert twice["tile"]["side_pixels"] == 128
    assert "ran out of memory" in twice["why"]
    assert twice["mean_difference"] <= 0.05


def test_after_the_smallest_tile_the_cpu_carries_on(found: Any) -> None:
    last = found["no_tile_works"]
    assert last["fired"] > 1
    assert last["largest_difference"] < 1e-4
    assert last["next_equal"]


def test_an_unknown_error_is_passed_on_at_once(found: Any) -> None:
    assert found["unknown_error"] == {"message": "odd", "fired": 1}


def test_tiles_respect_the_largest_single_allocation(found: Any) -> None:
    limited = found["single_allocation_limit"]
    assert limited["tile"]["side_pixels"] == 128
    assert "in one piece at most" in limited["why"]
    assert limited["mean_difference"] <= 0.05


def test_a_placed_vae_is_a_vae_to_other_nodes(found: Any) -> None:
    objects = found["objects"]
    assert objects["is_a_vae"]
    assert objects["tiled_shape"] == [1, 256, 256, 3]
    assert objects["device_again"] == "cpu"
    assert objects["close_on_cpu"] < 1e-4
