"""The CPU plan: measured once per machine, chosen by measurement, overridable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from xpu_utils.cpu import measure as cpu_measure
from xpu_utils.cpu.attention import AttentionPath
from xpu_utils.cpu.capabilities import Capabilities, capabilities
from xpu_utils.cpu.plan import LARGEST, OVERRIDES_VARIABLE, AttentionRule, CpuPlan, overridden
from xpu_utils.cpu.planning import cpu_plan

PLAN = CpuPlan(
    identity="x",
    precision="bf16",
    channels_last=True,
    onednn_linear=("bf16",),
    convolution_as_product=("bf16",),
    exact_gelu=("bf16",),
    threads=2,
    keep_freed_memory=True,
    attention=(
        AttentionRule("bf16", 128, LARGEST, AttentionPath.SOFTMAX),
        AttentionRule("bf16", LARGEST, 64, AttentionPath.SIGMOID),
    ),
    speeds={"gemm fp32": 80.0, "gemm bf16": 200.0},
)


class Measurement:
    """Notes whose measurement was asked for, and answers with the plan above."""

    def __init__(self) -> None:
        self.identities: list[str] = []

    def __call__(self, found: Capabilities) -> CpuPlan:
        self.identities.append(found.identity)
        return dataclasses.replace(PLAN, identity=found.identity)


@pytest.fixture
def measure() -> Measurement:
    return Measurement()


def test_a_machine_is_measured_once(tmp_path: Path, measure: Measurement) -> None:
    cache = tmp_path / "deep"
    first = cpu_plan(cache, measure=measure)
    assert cpu_plan(cache, measure=measure) == first
    assert len(measure.identities) == 1


def test_another_identity_is_measured_too_and_both_are_kept(
    tmp_path: Path, measure: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_plan(tmp_path, measure=measure)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    cpu_plan(tmp_path, measure=measure)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    cpu_plan(tmp_path, measure=measure)
    assert len(set(measure.identities)) == len(measure.identities) == 2


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json", '{"identity": 1}'])
def test_a_damaged_cache_is_measured_anew(tmp_path: Path, measure: Measurement, content: str) -> None:
    cpu_plan(tmp_path, measure=measure)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    plan = cpu_plan(tmp_path, measure=measure)
    assert cpu_plan(tmp_path, measure=measure) == plan
    assert len(measure.identities) == 2


def test_a_plan_of_an_older_version_is_measured_anew(tmp_path: Path, measure: Measurement) -> None:
    cpu_plan(tmp_path, measure=measure)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace('"threads"', '"cores"'))
    cpu_plan(tmp_path, measure=measure)
    assert len(measure.identities) == 2


def test_threads_are_those_of_this_process_whatever_the_measuring_one_was_allowed(
    tmp_path: Path, measure: Measurement
) -> None:
    assert cpu_plan(tmp_path, measure=measure, cores=lambda: 1).threads == 1
    assert cpu_plan(tmp_path, measure=measure, cores=lambda: 6).threads == 6
    assert len(measure.identities) == 1


def test_plans_of_another_version_of_the_measurement_are_not_used() -> None:
    now = capabilities({})
    assert dataclasses.replace(now, plan_version=now.plan_version + 1).identity != now.identity


def test_a_precision_is_computed_in_where_it_was_measured_faster_than_fp32_or_is_chosen() -> None:
    assert PLAN.computes("bf16")
    assert PLAN.computes("fp32")
    assert not PLAN.computes("fp16"), "not measured: the CPU has no instructions for it"
    emulating = dataclasses.replace(PLAN, precision="fp32", speeds={"gemm fp32": 80.0, "gemm bf16": 1.0})
    assert not emulating.computes("bf16")
    assert overridden(emulating, "precision=bf16").computes("bf16")


def test_the_user_overrides_what_was_measured(
    tmp_path: Path, measure: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OVERRIDES_VARIABLE, "precision=fp32, threads=7,attention=softmax,channels_last=off")
    plan = cpu_plan(tmp_path, measure=measure)
    assert (plan.precision, plan.dtype, plan.threads, plan.channels_last) == ("fp32", torch.float32, 7, False)
    assert plan.attention_path(torch.float32, 4096, 4096, 40) is AttentionPath.SOFTMAX


@pytest.mark.parametrize("choices", ["precision=int4", "threads=0", "threads", "colour=red", "attention=flash"])
def test_an_unknown_override_is_refused_in_a_sentence(choices: str) -> None:
    with pytest.raises(ValueError, match=r"XPU_NODES_CPU: .* is not known, use precision="):
        overridden(PLAN, choices)


def test_the_attention_path_follows_the_first_rule_that_fits() -> None:
    assert PLAN.attention_path(torch.bfloat16, 1 << 20, 77, 40) is AttentionPath.SOFTMAX
    assert PLAN.attention_path(torch.bfloat16, 4096, 4096, 40) is AttentionPath.SIGMOID
    assert PLAN.attention_path(torch.bfloat16, 4096, 4096, 160) is AttentionPath.SDPA, "no rule fits"
    assert PLAN.attention_path(torch.float32, 4096, 4096, 40) is AttentionPath.SDPA, "nothing measured for fp32"


def test_work_too_small_to_share_out_stays_with_sdpa() -> None:
    assert PLAN.attention_path(torch.bfloat16, 77, 77, 64) is AttentionPath.SDPA
    many = dataclasses.replace(PLAN, threads=64)
    assert many.attention_path(torch.bfloat16, 1024, 1024, 64) is AttentionPath.SDPA


def test_precision_is_the_measured_fastest_and_fp32_where_the_gain_is_noise() -> None:
    speeds = {f"{what} {precision}": 100.0 for what in ("gemm", "convolution", "convolution channels_last")
              for precision in ("fp32", "bf16")}  # fmt: skip
    assert cpu_measure.choose_precision(speeds, ["fp32", "bf16"]) == "fp32"
    faster = {**speeds, "gemm bf16": 300.0, "convolution channels_last bf16": 300.0}
    assert cpu_measure.choose_precision(faster, ["fp32", "bf16"]) == "bf16"
    emulated = {**speeds, "gemm bf16": 300.0, "convolution bf16": 10.0, "convolution channels_last bf16": 12.0}
    assert cpu_measure.choose_precision(emulated, ["fp32", "bf16"]) == "fp32"


def test_capabilities_of_a_masked_machine_have_another_identity() -> None:
    assert capabilities({}).identity == capabilities({}).identity
    assert capabilities({}).identity != capabilities({"ATEN_CPU_CAPABILITY": "avx2"}).identity


def test_older_builds_answer_capabilities_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert capabilities({}).instructions == ("avx512_bf16", "avx512_f", "avx2")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert capabilities({}).instructions == ()


def test_one_thread_is_measured_and_torchs_threads_are_as_they_were_afterwards() -> None:
    threads = []

    def measure(found: Capabilities) -> CpuPlan:
        threads.append(torch.get_num_threads())
        return PLAN

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert cpu_measure.measure_plan(capabilities({}), measure) is PLAN
        assert (threads, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


def test_what_others_draw_goes_on_as_if_nothing_was_measured() -> None:
    def measure(_: object) -> CpuPlan:
        torch.randn(3)
        return PLAN

    before = torch.get_rng_state()
    cpu_measure.measure_plan(capabilities({}), measure)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unwritable_cache_does_not_stop_the_work(tmp_path: Path, measure: Measurement) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cpu_plan(blocked, measure=measure).precision == "bf16"
