"""With the switch on, what samplers draw on the way is what stock draws on that device, and outlives it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers

Answers = Callable[[str], Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Answers:
    """What a module of cases answers."""
    ensure_models("sd15-tiny-unet")
    base = tmp_path_factory.mktemp("noise")
    devices = {"devices": ["arc-b580", "arc-b580"]}
    return functools.cache(lambda module: answers(module, devices, base, host, host_environment()))


@pytest.mark.parametrize(
    ("cases", "least"), [("noise_cases", 8), pytest.param("every_sampler_cases", 30, marks=pytest.mark.matrix)]
)
def test_samplers_give_stocks_latents(found: Answers, cases: str, least: int) -> None:
    told = found(cases)["samplers"]
    assert told["differ"] == []
    assert told["count"] >= least
    assert told["distinct"] > told["count"] / 2
    assert told["everywhere differs"], "the device's generator is the host's here: nothing was tested"


def test_a_lost_device_does_not_change_what_follows(found: Answers) -> None:
    told = found("noise_cases")["a_lost_device"]
    assert told["dpmpp_2m_sde_gpu, another"] == [0, "xpu:1"]
    difference, device = told["euler_ancestral, the cpu"]
    assert device == "cpu"
    assert difference < 1e-3, "attention sums in another order there; another noise would be another picture"


def test_a_condition_that_is_left_out_may_overflow(found: Answers) -> None:
    assert found("noise_cases")["a_latent_in_half"]
