"""`bench stream` and `bench load` run to their end, and all that they compare is equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment

from .worker import answers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    return answers(
        "bench_cases",
        {"devices": [{"preset": "arc-b580"}]},
        tmp_path_factory.mktemp("benches"),
        host,
        host_environment(),
    )


def test_every_way_of_streaming_gives_the_same_latent(found: Any) -> None:
    told = found["stream"]
    assert told["code"] == 0
    (report,) = told["report"]
    assert [figures["name"] for figures in report["figures"] if figures["ours"]] == [
        "ours, all resident",
        "ours, 90 %",
        "ours, 45 %",
        "ours, 10 %",
    ]
    assert all(figures["equal"] for figures in report["figures"])


def test_flux_is_built_on_hosts_that_ask_for_more_of_it_and_for_less(found: Any) -> None:
    assert found["a_small_flux"]["finite"]
    assert found["a_small_flux"]["spread"] > 0.1


def test_every_way_of_loading_gives_the_same_weights(found: Any) -> None:
    told = found["load"]
    assert told["code"] == 0
    assert all(figures["equal"] for figures in told["report"])


def test_loading_is_measured_until_the_model_is_ready(found: Any) -> None:
    names = [figures["name"] for figures in found["load"]["report"]]
    assert names[-2:] == ["ComfyUI's loader, to ready", "XPU Nodes' loader, to ready"]


def test_every_way_is_measured_from_the_loader_on(found: Any) -> None:
    turns = found["pressure"]
    assert all(turn["first_step_seconds"] > turn["load_seconds"] > 0 for turn in turns)
    assert all(turn["second_start_seconds"] > 0 and turn["seconds_per_step"] > 0 for turn in turns)
    assert len({turn["digest"] for turn in turns[1:]}) == 1
