"""A queued prompt ends in a picture, whatever fails at whatever stage, and the next prompt is right."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.harness.server import Server
from tests.harness.workflows import node
from tests.xpu_sim.control import Client as Simulation

from .matrix import OUT, PASSING, SAMPLERS, STAGES, STEPS, Case, Outcome, faulty_server, graph, row, run_case

Machine = tuple[Server, Simulation]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with faulty_server(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(machine: Machine) -> dict[str, Outcome]:
    """What each sampler gives when nothing fails."""
    outcomes = {sampler: run_case(*machine, None, graph(sampler)) for sampler in SAMPLERS}
    assert all(outcome.message == "" for outcome in outcomes.values())
    assert all(set(outcome.devices) == {"xpu:0"} for outcome in outcomes.values())
    return outcomes


def cases() -> list[Case]:
    """Every passing fault at every stage, the samplers taking turns."""
    pairs = [(stage, kind) for stage in STAGES for kind in PASSING if (stage, kind) != ("load", "nan")]
    return [Case(stage, kind, SAMPLERS[index % len(SAMPLERS)]) for index, (stage, kind) in enumerate(pairs)]


@pytest.fixture(scope="module")
def results() -> Iterator[list[dict[str, object]]]:
    """Rows for docs/reliability.md."""
    rows: list[dict[str, object]] = []
    yield rows
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "matrix.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_fault_that_passes_costs_nothing(
    machine: Machine, undisturbed: dict[str, Outcome], results: list[dict[str, object]], case: Case
) -> None:
    expected = undisturbed[case.sampler]
    outcome = run_case(*machine, case, graph(case.sampler))
    results.append(row(outcome, expected))
    assert outcome.fired
    assert outcome.message == ""
    assert outcome.picture is not None
    assert np.array_equal(outcome.picture, expected.picture)
    if case.stage.endswith("step"):
        assert any("at step" in report for report in outcome.reports), "the node does not say what happened"
        calls = STEPS * (2 if case.sampler == "heun" else 1)
        assert outcome.convolutions <= expected.convolutions + 2 * expected.convolutions // calls


def test_a_lost_device_costs_one_step_and_is_avoided_from_then_on(tmp_path: Path) -> None:
    with faulty_server(tmp_path, devices=len(STAGES) + 1) as machine:
        server, _ = machine
        expected = run_case(*machine, None, graph("euler"))
        for number, stage in enumerate(STAGES):
            outcome = run_case(*machine, Case(stage, "device_lost"), graph("euler"))
            assert outcome.fired, stage
            assert outcome.message == ""
            assert np.array_equal(outcome.picture, expected.picture), stage
            after = run_case(*machine, None, graph("euler"))
            assert np.array_equal(after.picture, expected.picture), f"the prompt after losing a device in {stage}"
            assert f"xpu:{number}" not in after.devices
        assert server.process.poll() is None


def test_a_lora_is_applied_again_after_its_model_was_on_a_lost_device(tmp_path: Path) -> None:
    with faulty_server(tmp_path, "lora-sd15-tiny") as machine:
        plain = run_case(*machine, None, graph("euler"))
        expected = run_case(*machine, None, with_lora())
        assert not np.array_equal(expected.picture, plain.picture), "the LoRA changes nothing"
        outcome = run_case(*machine, Case("middle step", "device_lost"), with_lora())
        assert "xpu:1" in outcome.devices
        assert np.array_equal(outcome.picture, expected.picture)


def with_lora() -> dict[str, dict[str, object]]:
    workflow = graph("euler")
    workflow["lora"] = node(
        "LoraLoaderModelOnly", model=["checkpoint", 0], lora_name="lora-sd15-tiny.safetensors", strength_model=1.0
    )
    workflow["sampler"]["inputs"]["model"] = ["lora", 0]
    return workflow


def test_when_the_only_device_is_lost_the_cpu_takes_over(tmp_path: Path) -> None:
    with faulty_server(tmp_path, devices=1) as machine:
        expected = run_case(*machine, None, graph("dpmpp_2m"))
        outcome = run_case(*machine, Case("middle step", "device_lost"), graph("dpmpp_2m"))
        assert outcome.fired
        assert "cpu" in outcome.devices
        again = run_case(*machine, None, graph("dpmpp_2m"))
        assert set(again.devices) == {"cpu"}
        for found in (outcome, again):  # within one of 255 levels: a PSNR of at least 48 dB
            assert np.abs(found.picture - expected.picture).max() <= 1


def test_a_fault_nobody_knows_is_shown_as_it_came(machine: Machine) -> None:
    server, simulation = machine
    simulation.set_faults({"operator": "aten::convolution", "kind": "error", "message": "the moon is full"})
    result = server.client.run(graph("euler"))
    simulation.set_faults()
    assert "the moon is full" in result.message


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
