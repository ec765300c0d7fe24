"""Every fault at every stage of every workflow, the prompt after each, and stock ComfyUI in the same place."""

from __future__ import annotations

import dataclasses
import itertools
import urllib.error
from collections.abc import Callable, Iterator
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
    Outcome,
    faulty_server,
    picture,
    psnr_db,
    row,
    run_case,
)
from tests.xpu_sim.control import Client as Simulation

from .server import Server
from .workflows import Workflow, with_stock_nodes

Folder = Callable[[str], Path]
Rows = list[dict[str, Any]]
STOCK_WORKFLOW = "euler"
PATIENCE_S = 120
"""After which a server counts as executing no more prompts."""


def run_matrix(folder: Folder) -> Rows:
    """Every passing fault at every stage of every workflow, each followed by an undisturbed prompt."""
    with faulty_server(folder("matrix")) as machine:
        expected = {name: run_case(*machine, None, workflow) for name, workflow in WORKFLOWS.items()}
        cases = [Case(stage, kind, name) for stage, kind in _pairs() for name in WORKFLOWS]
        return [
            _faulty(machine, case, WORKFLOWS[case.workflow], expected[case.workflow])
            for case in tqdm(cases, unit="prompt", desc="matrix")
        ]


def run_losses(folder: Folder) -> Rows:
    """A device lost, or hanging, at every stage of every workflow, each followed by an undisturbed prompt.

    Every other one that hangs comes back after it was given up.
    """
    rows: Rows = []
    every = list(itertools.product(LASTING, WORKFLOWS.items()))
    for number, (kind, (name, workflow)) in enumerate(tqdm(every, unit="server", desc="lost devices")):
        with faulty_server(folder(f"lost-{number}"), devices=len(STAGES) + 1, environment=IMPATIENT) as machine:
            expected = run_case(*machine, None, workflow)
            for index, stage in enumerate(STAGES):
                rows.append(_faulty(machine, Case(stage, kind, name), workflow, expected))
                if kind == HANG and index % 2:
                    machine[1].let_go_on(index)
    return rows


def run_stock(folder: Folder) -> Rows:
    """The same faults in ComfyUI without the pack, in one workflow; a server for each device that is lost or hangs."""
    workflow = with_stock_nodes(WORKFLOWS[STOCK_WORKFLOW])
    rows: Rows = []
    with faulty_server(folder("stock"), packs={}) as machine:
        expected = run_case(*machine, None, workflow)
        for stage, kind in tqdm(list(_pairs()), unit="prompt", desc="stock"):
            rows.append(_faulty(machine, Case(stage, kind, STOCK_WORKFLOW), workflow, expected))
    for stage, kind in tqdm(list(itertools.product(STAGES, LASTING)), unit="server", desc="stock, lost devices"):
        with faulty_server(folder(f"stock-{kind}-{stage}"), packs={}) as machine:
            rows.append(_faulty(machine, Case(stage, kind, STOCK_WORKFLOW), workflow, expected))
    return rows


def _pairs() -> Iterator[tuple[str, str]]:
    """Stage and passing fault; loading computes nothing that could be NaN."""
    return ((stage, kind) for stage in STAGES for kind in PASSING if (stage, kind) != ("load", "nan"))


def _faulty(machine: tuple[Server, Simulation], case: Case, workflow: Workflow, expected: Outcome) -> dict[str, Any]:
    """Runs a case and an undisturbed prompt after it; answers the case's row."""
    server, _ = machine
    try:
        outcome = run_case(*machine, case, workflow, timeout_s=PATIENCE_S)
    except TimeoutError:
        outcome = dataclasses.replace(expected, case=case, message="no end", picture=None, rungs=(), fired=True)
    found = row(outcome, expected)
    differs = outcome.picture is not None and not found["equal"]
    return {
        **found,
        "finished": outcome.picture is not None,
        "psnr_db": round(psnr_db(outcome.picture, expected.picture), 1) if differs else None,
        "next_right": _next_right(server, workflow, expected),
        "server_alive": server.process.poll() is None,
    }


def _next_right(server: Server, workflow: Workflow, expected: Outcome) -> bool:
    """Whether an undisturbed prompt gives the undisturbed picture; a server that no longer answers gives none."""
    try:
        result = server.client.run(workflow, timeout_s=PATIENCE_S)
    except (TimeoutError, websocket.WebSocketException, urllib.error.URLError, ConnectionError):
        return False
    return result.error is None and np.array_equal(picture(server, result), expected.picture)
