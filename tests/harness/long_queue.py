"""A long queue of prompts with random faults on two cards, which hang and die on the way: what finishes, and what
memory does.

Memory is what the server's process has for itself (USS), and what of it is in use, less the memory of its simulated
devices, with every model unloaded, caches emptied and the heap trimmed: gaps in the C library's heap come and go by
some percent, what is in use does not. The warm-up contains one fault of each kind, a recovery on the CPU, a
lost device and one that hangs, so that what is made once per process has been made when counting begins.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tests.sim_host.matrix import (
    HANG,
    IMPATIENT,
    LOST,
    PASSING,
    SAMPLERS,
    fault_of,
    faulty_server,
    graph,
    picture,
    psnr_db,
    rungs_of,
)
from tests.xpu_sim.control import Client as Simulation
from xpu_utils.recovery.ladder import INEXACT

from .client import Result
from .hosts import ROOT
from .memory import MEMORY_PACK, device_bytes, settled
from .server import PACK_NAME, Server
from .workflows import Workflow

READ_EVERY = 100
"""Prompts between two readings of memory. After each all is loaded anew, and safetensors 0.8 keeps two integers for
each tensor that it reads, for whomever: 1,472 of Python's blocks for this checkpoint."""

_PACKS = {PACK_NAME: ROOT, **MEMORY_PACK}
_INEXACT = {rung.value for rung in INEXACT}
_SEEDS = 2
_PROMPTS = tuple(itertools.product(range(_SEEDS), SAMPLERS))
"""Seed and sampler of the different prompts: more than the server's cache holds."""

Picture = np.ndarray[Any, Any]


def run_queue(length: int, seed: int, base: Path) -> dict[str, Any]:
    """Runs the queue on two cards; two more die in the warm-up."""
    options: dict[str, Any] = {"arguments": ("--cache-lru", "4"), "environment": IMPATIENT}
    with faulty_server(base, devices=4, packs=_PACKS, **options) as (server, simulation):
        run = _Queue(server, simulation)
        run.warm_up()
        readings = [run.read_memory(0)]
        for number, fault in enumerate(tqdm(list(faults_of_queue(length, seed)), unit="prompt", desc="queue"), start=1):
            run.prompt(number, fault)
            if number % READ_EVERY == 0 or number == length:
                readings.append(run.read_memory(number))
        return {
            "queued": length,
            "seed": seed,
            "fired": run.fired,
            "finished": run.finished,
            "equal": run.equal,
            "psnr_db": run.psnr_db,
            "inexact": run.inexact,
            "unexplained": run.unexplained,
            "server_alive": server.process.poll() is None,
            "readings": readings,
            **growth(readings),
        }


def growth(readings: list[dict[str, int]]) -> dict[str, Any]:
    """How much more of each kind is held at the end than at the start, and what a prompt of the second half adds."""
    first, last = readings[0], readings[-1]
    second_half = readings[min(len(readings) // 2, len(readings) - 2) :]
    slope = statistics.linear_regression(
        [reading["prompts"] for reading in second_half], [reading["in_use_bytes"] for reading in second_half]
    ).slope
    grown = {key: last[key] / first[key] - 1 for key in ("host_bytes", "in_use_bytes", "python_blocks")}
    return {"grown": grown, "bytes_per_prompt": slope}


def faults_of_queue(length: int, seed: int) -> Iterator[dict[str, Any]]:
    """A fault for each prompt: of a random kind at a random operation, that happens up to four times.

    At random places the first card hangs, in the middle third, and the second is lost, in the last tenth.
    """
    chance = random.Random(seed)
    hangs, lost = chance.randrange(length // 3, 2 * length // 3), chance.randrange(9 * length // 10, length)
    for number in range(length):
        kind = {hangs: HANG, lost: LOST}.get(number) or chance.choice(PASSING)
        device = int(number > hangs)
        when = {"nth": chance.randint(1, 120), "times": chance.choice((1, 1, 1, 2, 4))}
        yield {"operator": "aten::convolution", **fault_of(kind), "device": device, **when}


class _Queue:
    """The server that the queue runs on, and what has come of it so far."""

    def __init__(self, server: Server, simulation: Simulation) -> None:
        self.server = server
        self.simulation = simulation
        self.fired = self.finished = self.equal = self.inexact = 0
        self.psnr_db: list[float] = []
        """Of each picture that is not equal to the undisturbed one."""
        self.unexplained: list[dict[str, Any]] = []
        """Those among them whose prompts took no rung that may change anything."""
        self._expected: dict[tuple[int, str], Picture] = {}

    def warm_up(self) -> None:
        """Runs each prompt undisturbed, then everything once that may happen to one."""
        for which in _PROMPTS:
            result = self.server.client.run(_prompt(*which))
            self._expected[which] = picture(self.server, result)
        once = {"operator": "aten::convolution", "nth": 20}
        for kind in PASSING:
            self._disturbed(_prompt(0, SAMPLERS[0]), {**once, **fault_of(kind)})
        self._disturbed(_prompt(0, SAMPLERS[1]), {**once, "kind": "nan", "times": None})  # ends on the CPU
        self._disturbed(_prompt(0, SAMPLERS[2], device="xpu:2"), {**once, "kind": LOST, "device": 2})
        self._disturbed(_prompt(0, SAMPLERS[3], device="xpu:3"), {**once, "kind": HANG, "device": 3})
        for which in _PROMPTS:
            self.server.client.run(_prompt(*which))

    def prompt(self, number: int, fault: dict[str, Any]) -> None:
        """Runs one prompt of the queue with a fault and compares its picture with the undisturbed one."""
        which = _PROMPTS[number % len(_PROMPTS)]
        result, fired = self._disturbed(_prompt(*which), fault)
        self.fired += fired
        if result.error is not None:
            return
        self.finished += 1
        found, expected = picture(self.server, result), self._expected[which]
        rungs = rungs_of(self.server, result)
        inexact = not _INEXACT.isdisjoint(rungs)
        self.inexact += inexact
        if np.array_equal(found, expected):
            self.equal += 1
            return
        self.psnr_db.append(round(psnr_db(found, expected), 1))
        if not inexact:
            self.unexplained.append({"number": number, "prompt": which, "rungs": rungs, **fault})

    def _disturbed(self, workflow: Workflow, fault: dict[str, Any]) -> tuple[Result, bool]:
        """Runs a prompt with a fault set; answers its result and whether the fault happened."""
        self.simulation.reset_statistics()
        self.simulation.set_faults(fault)
        result = self.server.client.run(workflow)
        fired = any(self.simulation.statistics().faults_fired)
        self.simulation.set_faults()
        if fault["kind"] == HANG:  # given up by then: until the call comes back it holds the model that it is in
            self.simulation.let_go_on(fault["device"])
        return result, fired

    def read_memory(self, prompts: int) -> dict[str, int]:
        """What the process holds for itself after so many prompts, and what its devices hold then."""
        held = dataclasses.asdict(settled(self.server, self.simulation))
        return {"prompts": prompts, **held, "device_bytes": device_bytes(self.simulation)}


def _prompt(seed: int, sampler: str, *, device: str = "auto") -> Workflow:
    workflow = graph(sampler)
    workflow["sampler"]["inputs"]["seed"] = seed
    for entry in workflow.values():
        if "device" in entry["inputs"]:
            entry["inputs"]["device"] = device
    return workflow
