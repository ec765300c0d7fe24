"""What stands in for a function of the host takes and hands on whatever it is given, the way it was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers

LAYOUTS = ("sd15-tiny-unet", "clip-l", "clip-vision-l", "vae-sd15", "controlnet-sd15-tiny", "upscaler-2x")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models(*LAYOUTS)
    base = tmp_path_factory.mktemp("stand-ins")
    return answers("stand_in_cases", {"devices": ["arc-b580"]}, base, host, host_environment())


def test_every_layers_stand_in_hands_on_what_it_does_not_know(found: Any) -> None:
    told = found["object_patches"]
    assert {name for name, patches in told.items() if patches["count"]} == {
        "model on cpu",
        "clip on cpu",
        "vae on cpu",
        "vae on xpu:0",
        "control on cpu",
        "control on xpu:0",
    }
    assert {name: patches["losing"] for name, patches in told.items() if patches["losing"]} == {}


def test_every_wrapper_of_a_run_leaves_a_call_as_it_came(found: Any) -> None:
    told = found["wrappers"]
    assert len(told["given"]) >= 4, "a run, its sampler, each model call, and the network within"
    assert told["arrived"] == told["given"]


@pytest.mark.parametrize("what", ["methods", "functions"])
def test_every_method_and_function_hands_on_as_it_was_called(found: Any, what: str) -> None:
    told = found[what]
    assert told
    assert {name: call for name, call in told.items() if call["arrived"] != call["given"]} == {}
