"""What `make reliability` sets off and how it judges the results; the run itself takes an hour."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness.fault_matrix import all_cases
from tests.harness.long_queue import faults_of_queue
from tests.harness.reliability_page import misses, page
from tests.harness.unfinished import all_rows, kept_rows
from tests.sim_host.matrix import LASTING, PASSING, STAGES, WORKFLOWS, Case, fault_of
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
QUEUE: dict[str, Any] = {
    "queued": 200,
    "finished": 200,
    "unexplained": [],
    "grown": {"in_use_bytes": 0.001, "python_blocks": 0.002},
}


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
    "queue",
    [{"finished": 199}, {"grown": {"in_use_bytes": 0.02, "python_blocks": 0}}, {"unexplained": [{"number": 7}]}],
    ids=["lost", "grown", "differs"],
)
def test_a_queue_that_loses_a_prompt_a_bit_or_memory_is_named(queue: dict[str, Any]) -> None:
    (line,) = misses(results(queue=queue))
    assert line.startswith("queue")


def test_the_page_counts_equal_pictures_by_kind_and_stage_and_says_what_was_not_run() -> None:
    text = page({**results(), "queue": None})
    assert "| nan | - | - | - | - | - | 1 of 1 | - |" in text
    assert f"with one fault in fp32 (euler); {len(all_cases()) - 1} more were not run:" in text


def test_a_part_that_was_not_measured_again_stays_on_the_page() -> None:
    nothing = dict.fromkeys(results())
    before = page({**results(), "queue": None})
    assert page(nothing, before) == before
    waiting = [{"kind": "hang", "queued": 200, "equal": 200}]
    assert page({**nothing, "waiting": waiting}, before).startswith(before)


def test_every_kind_meets_every_stage_of_every_workflow_once() -> None:
    cases = all_cases()
    every = set(itertools.product(STAGES, (*PASSING, *LASTING), WORKFLOWS))
    found = [(case.stage, case.kind, case.workflow) for case in cases]
    assert every - set(found) == {("load", "nan", name) for name in WORKFLOWS}
    assert len(found) == len(set(found))


def test_a_run_that_was_interrupted_goes_on_and_runs_what_failed_again(tmp_path: Path) -> None:
    cases = [Case("decode", kind) for kind in PASSING]
    file = tmp_path / "rows"
    asked: list[list[str]] = [[]]

    def run(left: Sequence[Case], *, ends_after: int) -> Iterator[tuple[Case, dict[str, Any]]]:
        asked.append([case.kind for case in left])
        for number, case in enumerate(left):
            if number == ends_after:
                raise KeyboardInterrupt
            yield case, {"kind": case.kind, "good": len(asked) > 2 or number > 0}

    with pytest.raises(KeyboardInterrupt):
        all_rows(file, cases, functools.partial(run, ends_after=3), good=lambda row: row["good"])
    with file.open("a") as stream:
        stream.write('["decode-nan')  # it was killed while it wrote
    rows = all_rows(file, cases, functools.partial(run, ends_after=99), good=lambda row: row["good"])
    assert asked[2] == [PASSING[0], *PASSING[3:]]
    assert [row["kind"] for row in rows] == list(PASSING)
    assert all(row["good"] for row in kept_rows(file).values())
