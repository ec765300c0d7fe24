"""`python -m tests.bench switch`: what the switch of protection adds to a prompt.

Two servers stand side by side, one with the switch on; each prompt goes to one and then to the other, in turns, and
the differences are compared: what else the machine does meets both. Neither computes anything else than the other
(`fp32` on the CPU), and models stay loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tests.harness.models import ensure_models
from tests.harness.server import Server, running_server
from tests.harness.workflows import text_to_image

CHOICES = {"xpu-nodes.protect.device": "cpu", "xpu-nodes.protect.precision": "fp32"}
WARM_UP = 3
"""Prompts of each server that are not counted: they load the models."""


def add_parser(subparsers: Any) -> None:
    """Adds this measurement to the command's."""
    parser = subparsers.add_parser("switch", help="what the switch of protection adds to a prompt")
    parser.add_argument("--prompts", type=int, default=200, help="tiny prompts of each server")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> tuple[bool, str]:
    """Measures; answers whether anything failed, which it never does, and the sentence."""
    with tempfile.TemporaryDirectory() as folder, _servers(Path(folder)) as servers:
        for number in range(-WARM_UP, 0):
            for server in servers:
                _seconds(server, number)
        pairs = []
        for number in tqdm(range(options.prompts), unit="pair"):
            turn = 1 if number % 2 else -1
            first, second = (_seconds(server, number) for server in servers[::turn])
            pairs.append((first, second) if turn == 1 else (second, first))
    return False, described(pairs)


def described(pairs: Sequence[tuple[float, float]]) -> str:
    """What pairs of seconds, with the switch off and on, tell in a sentence."""
    added_ms = sorted(1000 * (on - off) for off, on in pairs)
    half = 0.98 * len(pairs) ** 0.5  # the ranks between which the true median lies in 95 of 100 cases
    low, high = (added_ms[round(min(max(len(pairs) / 2 + side, 0), len(pairs) - 1))] for side in (-half, half))
    whole_ms = 1000 * statistics.median(off for off, _ in pairs)
    return (
        f"The switch adds {statistics.median(added_ms):.1f} ms to a prompt of {whole_ms:.0f} ms "
        f"(median of {len(pairs)} pairs; 95 %: {low:.1f} to {high:.1f} ms)."
    )


@contextlib.contextmanager
def _servers(base: Path) -> Iterator[list[Server]]:
    """One with the switch off and one with it on."""
    models = ensure_models("sd15-tiny")
    with contextlib.ExitStack() as stack:
        servers = []
        for state in ("off", "on"):
            (base / state).mkdir()
            environment = {"XPU_NODES_PROTECT": state}
            server = stack.enter_context(running_server(base / state, models=models, environment=environment))
            server.client.post("/settings", CHOICES)
            servers.append(server)
        yield servers


def _seconds(server: Server, number: int) -> float:
    """How long a prompt took of which everything but the loaders runs."""
    graph = text_to_image(steps=1, seed=number + WARM_UP)
    graph["positive"]["inputs"]["text"] = f"a lighthouse at dusk, {number}"
    result = server.client.run(graph)
    if result.error is not None:
        raise RuntimeError(f"The prompt failed: {result.message}")
    return result.events[-1][0]
