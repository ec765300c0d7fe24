"""With the switch on, what samplers draw on the way is what stock draws on that device, and outlives it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models("sd15-tiny-unet")
    base = tmp_path_factory.mktemp("noise")
    return answers("noise_cases", {"devices": ["arc-b580", "arc-b580"]}, base, host, host_environment())


def test_every_sampler_gives_stocks_latents(found: Any) -> None:
    told = found["samplers"]
    assert told["differ"] == []
    assert told["count"] > 30
    assert told["distinct"] > told["count"] / 2
    assert told["everywhere differs"], "the device's generator is the host's here: nothing was tested"


def test_a_lost_device_does_not_change_what_follows(found: Any) -> None:
    told = found["a_lost_device"]
    assert told["dpmpp_2m_sde_gpu, another"] == [0, "xpu:1"]
    difference, device = told["euler_ancestral, the cpu"]
    assert device == "cpu"
    assert difference < 1e-3, "attention sums in another order there; another noise would be another picture"
