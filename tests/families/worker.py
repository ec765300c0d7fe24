"""Checks families inside ComfyUI's code on simulated devices, each in a process of its own: a lost card stays lost.

`python -m tests.xpu_sim --config FILE -- tests/families/worker.py HOST ANSWERS JOBS [FAMILY...]` writes as JSON what
was found, by family and check (an empty text where it holds), which described families the host lacks, and which of
the host's are not described; and says a line of each family on its way. If it lacks a named one, none is checked.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.harness.in_process import enter

LIMIT_S = 600
"""A family that takes longer is stopped."""
MEMORY_BYTES = 64 << 30
"""The host's, all of it free: what else runs beside must not decide what is batched, page-locked or put on a card."""


def main() -> None:
    host, answers_file, jobs, *names = sys.argv[1:]
    enter(host)
    torch.set_num_threads(1)
    from xpu_utils.machine import host_memory

    # Before anything of ours imports it.
    host_memory.read_host_memory = lambda *_: host_memory.HostMemory(MEMORY_BYTES, MEMORY_BYTES)
    importlib.import_module("tests.families.checks")  # once, for all that are forked
    from tests.families import listing

    told = {"absent": listing.absent(), "undescribed": listing.undescribed()}
    possible = () if set(names) & set(told["absent"]) else listing.known()
    chosen = [family for family in possible if not names or family.name in names]
    for found in itertools.chain([{}], _all(chosen, int(jobs))):
        Path(answers_file).write_text(json.dumps({"found": found, **told}))
    os._exit(0)  # simulated devices and ComfyUI's threads need no orderly end


def _all(families: Iterable[Any], jobs: int) -> Iterator[dict[str, Any]]:
    """What was found so far, after each family."""
    found: dict[str, Any] = {}
    running: dict[int, tuple[str, str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        waiting = list(families)
        count = len(waiting)
        while waiting or running:
            while waiting and len(running) < jobs:
                family = waiting.pop(0)
                file = os.path.join(folder, family.name)
                running[_forked(family, file)] = (family.name, file, time.monotonic())
            pid, status = os.wait()
            name, file, began = running.pop(pid)
            found[name] = _answer(file, status)
            missed = [f"{check} ({why})" for check, why in found[name].items() if why]
            took = time.monotonic() - began
            print(f"{len(found)}/{count} {name}: {'; '.join(missed) or 'all holds'} ({took:.0f} s)", flush=True)
            yield found


def _forked(family: Any, file: str) -> int:
    child = os.fork()
    if child:
        return child
    signal.alarm(LIMIT_S)
    log = os.open(os.environ.get("FAMILIES_LOG", os.devnull), os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from tests.families.checks import check

    with torch.inference_mode():  # as ComfyUI runs its nodes
        Path(file).write_text(json.dumps(check(family)))
    os._exit(0)


def _answer(file: str, status: int) -> dict[str, str]:
    if status == 0 and os.path.exists(file):
        found: dict[str, str] = json.loads(Path(file).read_text())
        return found
    ended = "took too long" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM else "the process ended"
    return {"stock": ended}


if __name__ == "__main__":
    main()
