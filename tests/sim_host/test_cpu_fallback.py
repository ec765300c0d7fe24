"""Whatever comes to the CPU computes by the CPU's plan, and leaves the weights as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models

from .worker import answers


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    ensure_models("sd15-tiny-unet", "controlnet-sd15-tiny", "clip-l", "upscaler-2x")
    base = tmp_path_factory.mktemp("fallback")
    return answers("cpu_fallback_cases", {"devices": ["arc-b580"]}, base, host, host_environment())


def test_a_model_that_runs_out_of_memory_computes_by_the_cpus_plan(found: Any) -> None:
    model = found["model_out_of_memory"]
    assert model["ran"] == ["cpu", "fp32"]
    assert {name for name in model["counts"] if "float" in name} == {"float32 last"}
    assert model["counts"]["attention"] > 0
    assert model["counts"]["upsampling"] > 0


def test_after_the_run_it_is_on_its_device_with_the_same_weights(found: Any) -> None:
    assert found["model_out_of_memory"]["device_after"] == "xpu:0"
    assert found["model_out_of_memory"]["unchanged"]


def test_the_host_computes_on_one_thread_beside_a_device_and_on_all_in_its_place(found: Any) -> None:
    assert found["threads"] == {"within": [["cpu", 2], ["xpu", 1]], "between": [1, 1], "after": 2}


def test_a_controlnet_that_conditions_share_is_afterwards_as_it_was(found: Any) -> None:
    assert found["shared_control"] == "torch.bfloat16"


def test_a_vae_leaves_the_format_that_the_cpu_emulates(found: Any) -> None:
    vae = found["vae_out_of_memory"]
    assert vae["ran"] == ["cpu", "fp32"]
    assert {name for name in vae["counts"] if "float" in name} == {"float32 last"}
    assert vae["unchanged"]


def test_an_upscaler_takes_the_cpus_format_and_keeps_its_own_weights(found: Any) -> None:
    assert found["upscaler_out_of_memory"] == {"precision": "bf16", "weights": "torch.float16"}


@pytest.mark.parametrize("run", ["first", "next"])
def test_after_a_lost_device_model_and_controlnet_compute_by_the_plan_in_every_run(found: Any, run: str) -> None:
    lost = found["zz_lost"]
    assert lost["lost"] == ["xpu:0"]
    for kind in ("model", "control"):
        assert {name for name in lost[run][kind] if "float" in name} == {"float32 last"}, kind
        assert lost[run][kind]["attention"] > 0


def test_after_a_lost_device_a_text_encoders_weights_are_not_cast_at_every_use(found: Any) -> None:
    assert found["zz_lost"]["clip"] == "torch.float32"


def test_placed_weights_are_held_in_the_format_computed_in_while_they_are_used(found: Any) -> None:
    placed = found["placed_weights_are_held_in_the_computed_format"]
    assert placed["precision"] == "bf16"
    assert {name for name in placed["counts"] if "float" in name} == {"bfloat16 last"}
    assert placed["unchanged"]


def test_a_precision_that_the_cpu_emulates_is_computed_in_fp32_and_that_is_said(found: Any) -> None:
    for name, (precision, reason) in found["an_emulated_precision"].items():
        assert precision == "fp32", name
        assert reason == "this CPU only emulates bf16, computing in fp32", name


def test_with_auto_an_upscaler_takes_the_plans_format_in_weights_of_its_own(found: Any) -> None:
    assert found["auto_upscaler"] == {"precision": "bf16", "last": True, "others": "torch.float32"}
