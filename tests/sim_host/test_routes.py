"""What the routes answer where there is something to tell: devices, a job that met a fault, others' memory."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

from tests.harness.hosts import ROOT

from .matrix import Case, faulty_server, graph, run_case

SPECIFICATION: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text(encoding="utf-8"))


def described(path: str) -> Any:
    """A validator of what the description says a GET of that path answers."""
    content = SPECIFICATION["paths"][path]["get"]["responses"]["200"]["content"]
    schema = {**content["application/json"]["schema"], "components": SPECIFICATION["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def test_a_field_that_is_not_described_is_noticed() -> None:
    entry = {"name": "memory", "state": "applied", "reason": ""}
    assert described("/xpu/hooks").is_valid({"hooks": [entry]})
    assert not described("/xpu/hooks").is_valid({"hooks": [{**entry, "colour": "blue"}]})


def test_answers_after_a_job_that_met_a_fault_are_as_described(tmp_path: Path) -> None:
    with faulty_server(tmp_path) as (server, simulation):
        outcome = run_case(server, simulation, Case("middle step", "out_of_memory"), graph("euler"))
        assert outcome.fired

        def answer(path: str) -> Any:
            with urllib.request.urlopen(f"http://{server.address}{path}", timeout=120) as response:
                return json.load(response)

        answers = {path: answer(path) for path in SPECIFICATION["paths"] if path != "/xpu/free"}
        for path, found in answers.items():
            errors = [f"{path}: {error.message}" for error in described(path).iter_errors(found)]
            assert errors == []
    (job,) = answers["/xpu/jobs"]["jobs"]
    assert job["stages"]
    assert job["faults"]
    assert [device["id"] for device in answers["/xpu/devices"]["devices"]] == ["xpu:0", "xpu:1", "cpu"]
    samples = answers["/xpu/telemetry"]["devices"]
    assert [sample["device"] for sample in samples] == ["xpu:0", "xpu:1"]
    assert all(sample["memory"] for sample in samples)
    assert [steady(sample["memory"]) for sample in samples] == [
        steady(device["memory"]) for device in answers["/xpu/devices"]["devices"][:2]
    ]
    assert "no-gpu" not in [finding["code"] for finding in answers["/xpu/doctor"]["findings"]]


def steady(memory: dict[str, Any]) -> dict[str, Any]:
    """A reading without what other processes change between two answers: the room that the host has."""
    return {name: value for name, value in memory.items() if name != "free_bytes" or not memory["takes_host_memory"]}
