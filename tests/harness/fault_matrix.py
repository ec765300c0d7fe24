"""Every fault at every stage of every workflow, the prompt after each, and stock ComfyUI in the same place.

Nodes are executed again only where something differs: what a fault has left of a loaded model is what the next prompt
gets, as it is for users. So prompts take turns with two seeds, and with another text where encoding it fails.
"""

from __future__ import annotations

import copy
import dataclasses
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import websocket
from tqdm import tqdm

from tests.sim_host.matrix import (
    HANG,
    IMPATIENT,
    LASTING,
    PASSING,
    STAGES,
    WORKFLOWS,
    Case,
    faulty_server,
    picture,
    psnr_db,
    row,
    run_case,
)
from tests.xpu_sim.control import Client as Simulation

from .server import Server
from .workflows import TRIFLE, Workflow, with_stock_nodes

Folder = Callable[[str], Path]
Row = dict[str, Any]
_CHANGES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "fails": {},
    "encode text": {"positive": {"text": "a harbour"}},
    "next": {"sampler": {"seed": 8}},
}
"""What is another in a prompt that fails, one that fails while its text is encoded, and the one after it."""
MOST = 7
"""Devices that one server loses."""
PATIENCE_S = 120
STOCK_PATIENCE_S = 20
"""After which a server counts as executing no more prompts; one takes a second or two."""


def all_cases() -> list[Case]:
    """Every kind at every stage of every workflow; loading computes nothing that could be NaN.

    The workflows take turns, so that what was run of a run that is interrupted has something of everything.
    """
    names = list(WORKFLOWS)
    cases: list[Case] = []
    for turn, name in enumerate(names):
        cases += [Case(stage, kind, name) for kind in LASTING for stage in STAGES]
        cases += sorted(
            (
                Case(stage, kind, names[(turn + row + column) % len(names)])
                for row, stage in enumerate(STAGES)
                for column, kind in enumerate(PASSING)
                if (stage, kind) != ("load", "nan")
            ),
            key=lambda case: names.index(case.workflow),  # a change of it may load the model anew
        )
    return cases


def stock_cases() -> list[Case]:
    """Those of one workflow."""
    return [case for case in all_cases() if case.workflow == "euler"]


def run_cases(cases: Sequence[Case], folder: Folder) -> Iterator[tuple[Case, Row]]:
    """Runs each case and an undisturbed prompt after it; a device for every one that is lost or hangs."""
    lasting = [case for case in cases if case.kind in LASTING]
    for start in range(0, len(lasting), MOST):
        yield from _rows(lasting[start : start + MOST], folder, devices=MOST + 1, environment=IMPATIENT)
    yield from _rows([case for case in cases if case.kind in PASSING], folder)


def run_stock(cases: Sequence[Case], folder: Folder) -> Iterator[tuple[Case, Row]]:
    """The same in ComfyUI without the pack, with stock nodes."""
    yield from _rows(cases, folder, as_written=with_stock_nodes, patience_s=STOCK_PATIENCE_S, packs={})


def _rows(
    cases: Sequence[Case],
    folder: Folder,
    *,
    as_written: Callable[[Workflow], Workflow] = lambda workflow: workflow,
    patience_s: float = PATIENCE_S,
    **options: Any,
) -> Iterator[tuple[Case, Row]]:
    """Another server is started where the last one no longer gives the right picture."""
    left = list(cases)
    with tqdm(total=len(left), unit="case", desc="with the pack" if "packs" not in options else "stock") as done:
        while left:
            with faulty_server(folder("matrix"), arguments=("--cache-classic",), **options) as machine:
                names = dict.fromkeys(case.workflow for case in left)
                bench = _Bench(machine, {name: as_written(WORKFLOWS[name]) for name in names}, patience_s)
                usable = True
                while left and usable:
                    case = left.pop(0)
                    found = bench.faulty(case)
                    usable = found["next_right"]
                    yield case, found
                    done.update()


class _Bench:
    """A server, and what its prompts give undisturbed."""

    def __init__(
        self, machine: tuple[Server, Simulation], workflows: dict[str, Workflow], patience_s: float = PATIENCE_S
    ) -> None:
        self._machine = machine
        self._patience_s = patience_s
        self._lost = 0
        self._prompts = {
            (name, change): _changed(workflow, _CHANGES[change])
            for name, workflow in workflows.items()
            for change in _CHANGES
        }
        self._expected = {which: run_case(*machine, None, workflow) for which, workflow in self._prompts.items()}

    def faulty(self, case: Case) -> Row:
        """Runs a case and an undisturbed prompt after it; of two devices that hang one comes back afterwards."""
        server, simulation = self._machine
        which = (case.workflow, case.stage if case.stage in _CHANGES else "fails")
        expected = self._expected[which]
        if case.stage == "load":
            server.client.run(TRIFLE)  # after which nothing of the prompt before is kept
        try:
            outcome = run_case(*self._machine, case, self._prompts[which], timeout_s=self._patience_s)
        except TimeoutError:
            outcome = dataclasses.replace(expected, case=case, message="no end", picture=None, rungs=(), fired=True)
        found = row(outcome, expected)
        differs = outcome.picture is not None and not found["equal"]
        found |= {
            "finished": outcome.picture is not None,
            "psnr_db": round(psnr_db(outcome.picture, expected.picture), 1) if differs else None,
            "next_right": self._next_right(case.workflow),
            "server_alive": server.process.poll() is None,
        }
        if case.kind in LASTING:
            if case.kind == HANG and self._lost % 2 and found["next_right"]:
                simulation.let_go_on(self._lost)
            self._lost += 1
        return found

    def _next_right(self, name: str) -> bool:
        """Whether an undisturbed prompt gives the undisturbed picture; a server that no longer answers gives none."""
        server, _ = self._machine
        which = (name, "next")
        try:
            result = server.client.run(self._prompts[which], timeout_s=self._patience_s)
        except (TimeoutError, websocket.WebSocketException, urllib.error.URLError, ConnectionError):
            return False
        return result.error is None and np.array_equal(picture(server, result), self._expected[which].picture)


def _changed(workflow: Workflow, changes: Mapping[str, Mapping[str, Any]]) -> Workflow:
    """The workflow with other inputs of some nodes."""
    changed = copy.deepcopy(workflow)
    for name, inputs in changes.items():
        changed[name]["inputs"].update(inputs)
    return changed
