"""What a model keeps between a sampler's calls: autoregressive video's caches, which only newer hosts have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from xpu_utils.calls import Call
from xpu_utils.host.recovery.carried import Carried
from xpu_utils.recovery import faults

HOST, DEVICE = torch.device("cpu"), torch.device("meta")


@pytest.fixture(autouse=True)
def _nothing_stays_lost() -> Iterator[None]:
    yield
    faults._lost.clear()


def caches() -> list[dict[str, Any]]:
    return [{"k": torch.zeros(1, 8), "end": 0} for _ in range(2)]


def call(kept: list[dict[str, Any]], part: int = 0) -> Call:
    state = {"start_frame": part, "kv_caches": kept, "crossattn_caches": [{"is_init": False}]}
    return Call(("x_in",), (part,), {"model_options": {"transformer_options": {"ar_state": state}}})


def never(_: Call) -> None:
    raise AssertionError


def test_a_model_writes_into_what_the_sampler_holds_on_its_own_device() -> None:
    kept = caches()
    with Carried().to(DEVICE, torch.bfloat16, call(kept), never):
        assert {(cache["k"].device, cache["k"].dtype) for cache in kept} == {(DEVICE, torch.bfloat16)}
        kept[0]["end"] = 4
    assert [cache["end"] for cache in kept] == [4, 0]


def test_a_call_that_fails_can_be_repeated_on_the_same_places() -> None:
    kept = caches()

    def fail() -> None:
        with Carried().to(DEVICE, torch.float32, call(kept), never):
            kept[0]["end"] = 4
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        fail()
    assert [cache["end"] for cache in kept] == [0, 0]


def test_what_is_lost_with_a_device_is_computed_again_by_the_last_call_of_each_part() -> None:
    kept, carried = caches(), Carried()

    def write(made: Call) -> None:
        """Two places, as the model does: the part that it is about, and how far the caches are filled."""
        state = made.get("model_options")["transformer_options"]["ar_state"]
        cache = state["kv_caches"][0]
        cache["k"][:, cache["end"] : cache["end"] + 2] = 10 * made.get("x_in") + state["start_frame"]
        cache["end"] += 2

    def sampled(part: int, on: torch.device) -> None:
        with carried.to(on, torch.float32, call(kept, part), write):
            write(call(kept, part))

    sampled(1, HOST)
    kept[0]["end"] -= 2  # the sampler has this part done once more
    sampled(1, HOST)
    sampled(2, HOST)
    expected = kept[0]["k"].clone()
    for cache in kept:
        cache["k"] = cache["k"].to(DEVICE)
    faults.mark_lost(str(DEVICE), "gone")

    def run_out(_: Call) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError), carried.to(HOST, torch.float32, call(kept, 3), run_out):
        raise AssertionError
    with carried.to(HOST, torch.float32, call(kept, 3), write):
        assert torch.equal(kept[0]["k"], expected)
        assert kept[0]["end"] == 4


def test_other_samplers_carry_nothing() -> None:
    options: dict[str, Any] = {"transformer_options": {"sample_sigmas": torch.ones(2)}}
    with Carried().to(DEVICE, torch.float32, Call((), (), {"model_options": options}), never):
        assert options["transformer_options"]["sample_sigmas"].device == HOST
