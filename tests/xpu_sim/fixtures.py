"""pytest fixtures: import them into a conftest.py or a test module.

Installing the simulation replaces things in the whole process. `xpu_sim_process` runs a snippet in
a process of its own and so can be used beside any other test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from .build import ROOT

_PROLOGUE = """
import json, torch
import {package} as xpu_sim
from {package} import config
sim = xpu_sim.install(config.parse(json.loads({document!r})))
def answer(value):
    print("ANSWER " + json.dumps(value))
"""

RunSnippet = Callable[..., Any]


@pytest.fixture(scope="session")
def xpu_sim_process() -> RunSnippet:
    """A function `run(snippet, config={}, env={})`: the snippet sees `torch`, `xpu_sim`, `sim` (the
    simulation, installed) and `answer(value)`, whose JSON value is returned. A failing snippet
    fails the test with its output."""
    return run_snippet


def run_snippet(snippet: str, *, config: dict[str, Any] | None = None, env: dict[str, str] | None = None) -> Any:
    """See `xpu_sim_process`."""
    prologue = _PROLOGUE.format(package=__package__, document=json.dumps(config or {}))
    finished = subprocess.run(
        [sys.executable, "-c", prologue + textwrap.dedent(snippet)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if finished.returncode != 0:
        pytest.fail(f"The snippet ended with {finished.returncode}:\n{finished.stdout}{finished.stderr}")
    answers = [line for line in finished.stdout.splitlines() if line.startswith("ANSWER ")]
    return json.loads(answers[-1].removeprefix("ANSWER ")) if answers else None
