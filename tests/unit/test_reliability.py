"""What `make reliability` sets off and how it judges the results; the run itself takes an hour."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.long_queue import faults_of_queue
from tests.harness.reliability_page import misses, page
from tests.sim_host.matrix import LASTING, PASSING, fault_of
from tests.xpu_sim.faults import Fault

ROW: dict[str, Any] = {
    "stage": "decode",
    "kind": "nan",
    "workflow": "euler",
    "message": "",
    "rungs": ["fp32"],
    "extra_calls": 1,
    "fired": True,
    "equal": True,
    "finished": True,
    "next_right": True,
    "server_alive": True,
    "psnr_db": None,
}
QUEUE: dict[str, Any] = {"queued": 200, "finished": 200, "grown": {"in_use_bytes": 0.001, "python_blocks": 0.002}}


def results(*, row: dict[str, Any] | None = None, queue: dict[str, Any] | None = None) -> dict[str, Any]:
    nothing = dict.fromkeys(("stock", "waiting", "sampling", "memory", "attention"))
    return {"full-matrix": [{**ROW, **(row or {})}], "queue": {**QUEUE, **(queue or {})}, **nothing}


@pytest.mark.parametrize("seed", range(3))
def test_the_simulation_knows_every_fault_of_the_queue_two_of_which_take_a_card(seed: int) -> None:
    faults = [Fault(**fault) for fault in faults_of_queue(500, seed)]
    assert all([fault.kind for fault in faults].count(kind) == 1 for kind in LASTING)
    for kind in PASSING:
        asked = Fault(operator="any", **fault_of(kind))
        assert any((fault.kind, fault.message) == (asked.kind, asked.message) for fault in faults), kind


def test_a_prompt_that_is_lost_while_others_wait_is_named() -> None:
    waiting = [{"kind": kind, "queued": 200, "fired": 1, "equal": 200} for kind in LASTING]
    assert misses({**results(), "waiting": waiting}) == []
    waiting[1]["equal"] = 199
    assert misses({**results(), "waiting": waiting}) == ["waiting, hang: 199 of 200"]


def test_nothing_is_missed_where_all_is_as_promised() -> None:
    assert misses(results()) == []


@pytest.mark.parametrize("what", ["fired", "finished", "next_right", "server_alive"])
def test_a_row_that_is_not_as_promised_is_named(what: str) -> None:
    assert misses(results(row={what: False})) == ["decode, nan, euler: not as promised"]


@pytest.mark.parametrize(
    "queue", [{"finished": 199}, {"grown": {"in_use_bytes": 0.02, "python_blocks": 0}}], ids=["lost", "grown"]
)
def test_a_queue_that_loses_a_prompt_or_memory_is_named(queue: dict[str, Any]) -> None:
    (line,) = misses(results(queue=queue))
    assert line.startswith("queue: ")


def test_the_page_counts_equal_pictures_by_stage_and_kind() -> None:
    text = page({**results(), "queue": None})
    assert "| decode | 1 of 1 |" in text
    assert "with one fault in fp32 (euler):" in text
