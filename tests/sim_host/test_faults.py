"""A queued prompt ends in a picture, whatever fails at whatever stage, and the next prompt is right."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness.server import Server
from tests.harness.workflows import Workflow, node, with_stock_nodes
from tests.xpu_sim.control import Client as Simulation
from xpu_utils.machine.cache import DIRECTORY_VARIABLE
from xpu_utils.recovery.faults import FaultKind
from xpu_utils.recovery.ladder import INEXACT, ORDER, Rung

from .matrix import (
    IMPATIENT,
    ODD_MESSAGE,
    STAGES,
    STEPS,
    UNKNOWN,
    WORKFLOWS,
    Case,
    Outcome,
    faulty_server,
    graph,
    picture,
    psnr_db,
    run_case,
    set_next_fault,
    switched_on,
)

Machine = tuple[Server, Simulation]

BF16_PSNR = 30.0
"""A picture of which one half was computed in fp32 against the one in bf16, in dB."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with faulty_server(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(machine: Machine) -> dict[str, Outcome]:
    """What each workflow gives when nothing fails."""
    outcomes = {name: run_case(*machine, None, workflow) for name, workflow in WORKFLOWS.items()}
    assert all(outcome.message == "" for outcome in outcomes.values())
    assert all(set(outcome.devices) == {"xpu:0"} for outcome in outcomes.values())
    return outcomes


FIRST = (
    *(("load", kind, Rung.HOST) for kind in ("out_of_resources", "module build")),
    ("encode text", "out_of_device_memory", Rung.FREE),
    ("encode text", "missing kernel", Rung.ACCELERATOR),
    ("first step", "native_api_39", Rung.FREE),
    ("first step", "over 4 GB", Rung.ATTENTION),
    ("first step", "nan", Rung.ACCELERATOR),
    ("middle step", "out_of_memory", Rung.FREE),
    ("middle step", "allocation too large", Rung.ATTENTION),
    ("middle step", "invalid_argument", Rung.ACCELERATOR),
    ("last step", "UR error", Rung.FREE),
    ("last step", "allocation too large", Rung.ATTENTION),
    ("last step", "invalid_argument", Rung.ACCELERATOR),
    ("decode", "PI error", Rung.FREE),
    ("decode", "nan", Rung.ACCELERATOR),
    ("upscale", "primitive", Rung.FREE),
    ("upscale", "missing kernel", Rung.ACCELERATOR),
)
"""Every passing kind, and at every stage what can help first, in fp32; `make reliability` meets all combinations."""


def cases() -> list[Any]:
    """The workflows take turns."""
    names = list(WORKFLOWS)
    met = [(Case(stage, kind, names[number % len(names)]), rung) for number, (stage, kind, rung) in enumerate(FIRST)]
    return [pytest.param(case, rung, id=str(case)) for case, rung in met]


@pytest.mark.parametrize(("case", "rung"), cases())
def test_a_fault_that_passes_costs_a_stock_graph_nothing(
    machine: Machine, undisturbed: dict[str, Outcome], case: Case, rung: Rung
) -> None:
    """With the switch on, it ends in the picture that our nodes give."""
    expected, workflow = undisturbed[case.workflow], WORKFLOWS[case.workflow]
    with switched_on(machine[0], precision="fp32", resident=workflow["checkpoint"]["inputs"]["resident"]):
        outcome = run_case(*machine, case, with_stock_nodes(workflow))
    assert outcome.fired
    assert outcome.message == ""
    assert outcome.rungs == (rung.value,)
    assert outcome.picture is not None
    assert np.array_equal(outcome.picture, expected.picture)
    if case.stage.endswith("step"):
        assert 0 < outcome.calls - expected.calls <= len(outcome.rungs)


def test_a_lost_device_costs_one_step_and_is_avoided_from_then_on(tmp_path: Path) -> None:
    """The prompt after a loss loses the next device; when none is left, in a step, the CPU takes over."""
    with faulty_server(tmp_path, devices=len(STAGES)) as machine:
        server, _ = machine
        expected = run_case(*machine, None, graph("euler"))
        for number, stage in enumerate(sorted(STAGES, key="middle step".__eq__)):
            outcome = run_case(*machine, Case(stage, "device_lost"), graph("euler"))
            assert outcome.fired, stage
            assert outcome.message == ""
            assert np.array_equal(outcome.picture, expected.picture), stage
            assert outcome.calls - expected.calls <= len(outcome.rungs)
            following = f"xpu:{number + 1}" if number + 1 < len(STAGES) else "cpu"
            assert {following} <= set(outcome.devices) <= {f"xpu:{number}", following}
            if number:
                assert any("xpu:0 cannot be used (it was lost in this process" in text for text in outcome.reports)
            if following != "cpu":
                listed = {hook["name"]: hook["reason"] for hook in server.client.get("/xpu/hooks")["hooks"]}
                default = f"xpu:{number} is lost, ComfyUI runs on {following}"
                assert listed["default device after a lost device"] == default
        after = run_case(*machine, None, graph("euler"))
        assert np.array_equal(after.picture, expected.picture)
        assert set(after.devices) == {"cpu"}
        assert server.process.poll() is None


def test_a_device_that_hangs_costs_a_wait_and_is_avoided_from_then_on(tmp_path: Path) -> None:
    """Whether its calls never come back, or come back later. The prompt after a hang is the one in which the next
    device hangs; `make reliability` meets all stages."""
    stages = ("load", "middle step", "decode")
    with faulty_server(tmp_path, devices=len(stages) + 1, environment=IMPATIENT) as machine:
        server, simulation = machine
        expected = run_case(*machine, None, graph("euler"))
        for number, stage in enumerate(stages):
            workflow = with_stock_nodes(graph("euler")) if stage == "load" else graph("euler")
            with switched_on(server, precision="fp32"):
                outcome = run_case(*machine, Case(stage, "hang"), workflow)
            assert outcome.fired, stage
            assert outcome.message == ""
            assert np.array_equal(outcome.picture, expected.picture), stage
            assert outcome.calls - expected.calls <= len(outcome.rungs)
            counts = simulation.statistics().devices[number]
            assert counts.hanging, "it is given up while it hangs"
            assert counts.freed_while_hanging == 0
            if number % 2:
                simulation.let_go_on(number)
            left = {f"work on xpu:{index}" for index in range(0, number + 1, 2)}
            wait_until(lambda left=left: working(server) == left)
        after = run_case(*machine, None, graph("euler"))
        assert np.array_equal(after.picture, expected.picture)
        assert set(after.devices) == {f"xpu:{len(stages)}"}
        assert any("xpu:0 gave no answer for" in text for text in after.reports)
        assert server.process.poll() is None


def working(server: Server) -> set[str]:
    """The threads that do work on devices."""
    return {name for name in server.client.get("/fault_pack/threads")["threads"] if name.startswith("work on")}


def wait_until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_lora_is_applied_again_after_its_model_was_on_a_lost_device(tmp_path: Path) -> None:
    with faulty_server(tmp_path, "lora-sd15-tiny", devices=3) as machine:
        plain = run_case(*machine, None, graph("euler"))
        expected = run_case(*machine, None, with_lora())
        assert not np.array_equal(expected.picture, plain.picture), "the LoRA changes nothing"
        outcome = run_case(*machine, Case("middle step", "device_lost"), with_lora())
        assert "xpu:1" in outcome.devices
        assert np.array_equal(outcome.picture, expected.picture)
        outcome = run_case(*machine, Case("middle step", "device_lost"), with_lora(resident="45%"))
        assert "xpu:2" in outcome.devices
        assert np.array_equal(outcome.picture, expected.picture), "its weights had streamed to the lost device"


def test_weights_that_a_lora_has_changed_on_the_device_outlive_the_emptying_of_the_cache(tmp_path: Path) -> None:
    """Where that spoils all that nothing was read of, which the self-test has found."""
    fresh = {DIRECTORY_VARIABLE: str(tmp_path / "cache")}
    with faulty_server(tmp_path, "lora-sd15-tiny", devices=1, arguments=(), environment=fresh) as machine:
        server, simulation = machine
        simulation.set_faults({"operator": "*", "kind": "stale", "times": None})
        pictures = []
        for seed in (1, 2, 3, 1, 2, 3):
            workflow = with_lora()
            workflow["sampler"]["inputs"]["seed"] = seed
            result = server.client.run(workflow)
            assert result.message == ""
            pictures.append(picture(server, result))
            if len(pictures) == 3:
                assert "sums before the cache is emptied wrongly" in server.log_text()
                simulation.set_faults()
        for disturbed, expected in zip(pictures[:3], pictures[3:], strict=True):
            assert np.array_equal(disturbed, expected)


def with_lora(*, resident: str = "auto") -> Workflow:
    workflow = graph("euler", resident=resident)
    workflow["lora"] = node(
        "LoraLoaderModelOnly", model=["checkpoint", 0], lora_name="lora-sd15-tiny.safetensors", strength_model=1.0
    )
    workflow["sampler"]["inputs"]["model"] = ["lora", 0]
    return workflow


def test_a_fault_nobody_knows_is_shown_as_it_came(machine: Machine, undisturbed: dict[str, Outcome]) -> None:
    for stage in STAGES:
        if stage not in ("first step", "last step"):
            outcome = run_case(*machine, Case(stage, UNKNOWN), graph("euler"))
            assert ODD_MESSAGE in outcome.message, stage
            assert outcome.rungs == (), stage
    after = run_case(*machine, None, graph("euler"))
    assert np.array_equal(after.picture, undisturbed["euler"].picture)


@pytest.mark.parametrize("times", range(1, len(ORDER[FaultKind.OUT_OF_MEMORY]) + 1))
def test_every_rung_goes_on_with_the_picture(machine: Machine, undisturbed: dict[str, Outcome], times: int) -> None:
    server, _ = machine
    set_next_fault(server, "sampler", step=2, operator="aten::convolution", kind="out_of_memory", times=times)
    outcome = run_case(*machine, None, graph("euler"))
    rungs = ORDER[FaultKind.OUT_OF_MEMORY][:times]
    assert outcome.rungs == tuple(rung.value for rung in rungs)
    lines = [line for text in outcome.reports for line in text.splitlines() if "out of memory at step 3" in line]
    assert len(lines) == times
    assert [line.endswith("may change the picture in its last digits") for line in lines] == [
        rung in INEXACT for rung in rungs
    ]
    assert not INEXACT.isdisjoint(rungs) or np.array_equal(outcome.picture, undisturbed["euler"].picture)
    assert psnr_db(outcome.picture, undisturbed["euler"].picture) >= 48, "more than one of 255 levels"
    calls = times + (STEPS - 2 if Rung.SPLIT in rungs else 0)  # one condition a call from there on
    assert outcome.calls - undisturbed["euler"].calls <= calls


def test_nan_in_bf16_is_computed_again_in_fp32(machine: Machine) -> None:
    expected = run_case(*machine, None, graph("euler", precision="bf16"))
    outcome = run_case(*machine, Case("middle step", "nan"), graph("euler", precision="bf16"))
    assert outcome.rungs == (Rung.FP32.value,)
    assert any("the step repeated in fp32" in text for text in outcome.reports)
    assert "fp32" in outcome.precisions
    assert psnr_db(outcome.picture, expected.picture) >= BF16_PSNR


def test_what_fails_on_the_way_is_one_more_failure(tmp_path: Path) -> None:
    with faulty_server(tmp_path, devices=4) as machine:
        server, _ = machine
        expected = run_case(*machine, None, graph("euler"))
        lost = {"operator": "aten::convolution", "kind": "device_lost"}
        full = {"operator": "runtime::malloc", "kind": "out_of_memory", "device": 1, "times": None}
        set_next_fault(server, "sampler", step=2, also=[full], **lost, device=0)
        outcome = run_case(*machine, None, graph("euler"))
        assert "xpu:2" in outcome.devices, "the second device has no memory"
        assert psnr_db(outcome.picture, expected.picture) >= 48, "the conditions went one at a time"
        set_next_fault(server, "sampler", step=2, also=[{**lost, "device": 2}], **lost, device=1)
        outcome = run_case(*machine, None, graph("euler"))
        assert outcome.rungs == (Rung.ACCELERATOR.value,) * 2, "two devices die in one call"
        assert "xpu:3" in outcome.devices
        assert np.array_equal(outcome.picture, expected.picture)
        stale = {"kind": "error", "message": "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"}
        set_next_fault(server, "sampler", step=2, operator="aten::convolution", **stale)
        outcome = run_case(*machine, None, graph("euler"))
        assert "Sample was given data that was left on a lost device (xpu:0, xpu:1, xpu:2)" in outcome.message
        assert set(run_case(*machine, None, graph("euler")).devices) == {"xpu:3"}, "a living device was given up"


def test_a_prompt_can_be_stopped_in_a_recovery(machine: Machine, undisturbed: dict[str, Outcome]) -> None:
    server, simulation = machine
    set_next_fault(server, "sampler", step=2, operator="aten::convolution", kind="out_of_memory", times=3)
    server.client.post("/fault_pack/interrupt", {"call": 4})  # the third step's second attempt
    result = server.client.run(graph("euler"))
    assert result.interrupted
    simulation.set_faults()
    after = run_case(*machine, None, graph("euler"))
    assert np.array_equal(after.picture, undisturbed["euler"].picture)


def test_an_error_of_a_lost_device_that_works_goes_on_elsewhere(
    machine: Machine, undisturbed: dict[str, Outcome]
) -> None:
    server, _ = machine
    message = "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"
    set_next_fault(server, "sampler", step=2, operator="aten::convolution", kind="error", message=message)
    outcome = run_case(*machine, None, graph("euler"))
    assert outcome.rungs == (Rung.ACCELERATOR.value,)
    assert np.array_equal(outcome.picture, undisturbed["euler"].picture)
    assert set(run_case(*machine, None, graph("euler")).devices) == {"xpu:0"}


def test_what_cannot_be_done_ends_in_one_sentence_and_the_next_prompt_is_right(
    machine: Machine, undisturbed: dict[str, Outcome]
) -> None:
    server, simulation = machine
    workflow = graph("euler")
    workflow["latent"]["inputs"].update(width=16384, height=16384, batch_size=64)
    result = server.client.run(workflow)
    assert result.error is not None
    sentence = r"The latent 64x4x2048x2048 would need about \d+ GiB a step, .*: make the picture or the batch smaller\."
    assert re.fullmatch(sentence, result.message.strip())
    after = run_case(server, simulation, None, graph("euler"))
    assert np.array_equal(after.picture, undisturbed["euler"].picture)
