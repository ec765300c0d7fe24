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


def filled(made: Call) -> list[dict[str, Any]]:
    """The caches that a model finds in a call."""
    return list(made.get("model_options")["transformer_options"]["ar_state"]["kv_caches"])


def write(made: Call) -> None:
    """Two places, as the model does: the part that it is about, and how far the caches are filled."""
    cache = filled(made)[0]
    cache["k"][:, cache["end"] : cache["end"] + 2] = 10 * made.get("x_in") + part_of(made)
    cache["end"] += 2


def part_of(made: Call) -> int:
    return int(made.get("model_options")["transformer_options"]["ar_state"]["start_frame"])


def test_the_sampler_has_what_a_model_keeps_on_its_device_once_that_answered() -> None:
    kept, carried = caches(), Carried()
    attempt = carried.on(DEVICE, torch.bfloat16, call(kept), never)
    filled(attempt)[0]["end"] = 4
    assert {(cache["k"].device, cache["k"].dtype) for cache in filled(attempt)} == {(DEVICE, torch.bfloat16)}
    assert {(cache["k"].device, cache["end"]) for cache in kept} == {(HOST, 0)}
    carried.answered(call(kept), attempt)
    assert [(cache["k"].device, cache["end"]) for cache in kept] == [(DEVICE, 4), (DEVICE, 0)]


def test_an_attempt_that_goes_on_after_it_was_left_behind_changes_nothing() -> None:
    kept, carried = caches(), Carried()
    left = carried.on(DEVICE, torch.float32, call(kept), never)
    filled(left)[0]["end"] += 2
    attempt = carried.on(HOST, torch.float32, call(kept, 1), never)
    filled(left)[1]["k"] = torch.ones(1, 8)
    write(attempt)
    carried.answered(call(kept, 1), attempt)
    filled(left)[0]["end"] += 2
    assert [cache["end"] for cache in kept] == [2, 0]
    assert [cache["k"].tolist() for cache in kept] == [[[11, 11] + [0] * 6], [[0] * 8]]


def test_what_is_lost_with_a_device_is_computed_again_by_the_last_call_of_each_part() -> None:
    kept, carried = caches(), Carried()

    def sampled(part: int) -> None:
        attempt = carried.on(HOST, torch.float32, call(kept, part), never)
        write(attempt)
        carried.answered(call(kept, part), attempt)

    sampled(1)
    kept[0]["end"] -= 2  # the sampler has this part done once more
    sampled(1)
    sampled(2)
    expected = kept[0]["k"].clone()
    for cache in kept:
        cache["k"] = cache["k"].to(DEVICE)
    faults.mark_lost(str(DEVICE), "gone")

    def run_out(_: Call) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        carried.on(HOST, torch.float32, call(kept, 3), run_out)
    (cache, _) = filled(carried.on(HOST, torch.float32, call(kept, 3), write))
    assert torch.equal(cache["k"], expected)
    assert cache["end"] == 4


def test_other_samplers_carry_nothing() -> None:
    options: dict[str, Any] = {"transformer_options": {"sample_sigmas": torch.ones(2)}}
    made, carried = Call((), (), {"model_options": options}), Carried()
    assert carried.on(DEVICE, torch.float32, made, never) is made
    carried.answered(made, made)
