"""What a model keeps between a sampler's calls: autoregressive video's caches, which only newer hosts have."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xpu_utils.host.running.carried import carried_to

DEVICE = torch.device("meta")


def caches() -> list[dict[str, Any]]:
    return [{"k": torch.zeros(1, 4), "v": torch.zeros(1, 4), "end": 0} for _ in range(2)]


def test_a_model_writes_into_what_the_sampler_holds_on_its_own_device() -> None:
    kept = caches()
    options = {"transformer_options": {"ar_state": {"start_frame": 0, "kv_caches": kept}}}
    with carried_to(DEVICE, torch.bfloat16, options):
        assert {(cache["k"].device, cache["v"].dtype) for cache in kept} == {(DEVICE, torch.bfloat16)}
        kept[0]["end"] = 4
    assert [cache["end"] for cache in kept] == [4, 0]


def test_a_call_that_fails_can_be_repeated_on_the_same_places() -> None:
    kept = caches()
    options = {"transformer_options": {"ar_state": {"kv_caches": kept, "crossattn_caches": [{"is_init": False}]}}}

    def fail() -> None:
        with carried_to(DEVICE, torch.float32, options):
            kept[0]["end"] = 4
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        fail()
    assert [cache["end"] for cache in kept] == [0, 0]


def test_other_samplers_carry_nothing() -> None:
    options: dict[str, Any] = {"transformer_options": {"sample_sigmas": torch.ones(2)}}
    with carried_to(DEVICE, torch.float32, options):
        assert options["transformer_options"]["sample_sigmas"].device == torch.device("cpu")
