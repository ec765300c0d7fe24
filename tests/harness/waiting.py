"""One of two cards is lost, or hangs, while a whole queue of prompts waits: how many of them end in their picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tests.sim_host.matrix import IMPATIENT, LASTING, SAMPLERS, faulty_server, graph, picture

FAULT = {"operator": "aten::convolution", "device": 0, "nth": 200}
"""In one of the first prompts."""
OPTIONS: dict[str, Any] = {"arguments": ("--cache-classic",), "environment": IMPATIENT}
"""A prompt executes again what differs from the one before it."""


def run_waiting(length: int, folder: Callable[[str], Path]) -> list[dict[str, Any]]:
    """Queues all prompts at once, on a server for each kind."""
    rows = []
    workflows = [graph(sampler) for sampler in SAMPLERS]
    for kind in LASTING:
        with faulty_server(folder(f"waiting-{kind}"), **OPTIONS) as (server, simulation):
            expected = [picture(server, server.client.run(workflow)) for workflow in workflows]
            simulation.set_faults({**FAULT, "kind": kind})
            ids = [server.client.queue(workflows[number % len(workflows)]) for number in range(length)]
            results = [server.client.wait(prompt_id) for prompt_id in tqdm(ids, unit="prompt", desc=kind)]
            equal = [
                not result.error and np.array_equal(picture(server, result), expected[number % len(expected)])
                for number, result in enumerate(results)
            ]
            fired = sum(simulation.statistics().faults_fired)
            rows.append({"kind": kind, "queued": length, "fired": fired, "equal": sum(equal)})
    return rows
