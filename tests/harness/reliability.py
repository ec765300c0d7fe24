"""`make reliability`: every fault at every stage of every workflow, stock ComfyUI beside it, a long queue, one that
waits while a card dies, and the memory, attention and sampling suites of tests/sim_host; from the results
docs/measurements/reliability.md.

Results are kept under out/reliability/, and a matrix that is interrupted goes on there. A part can be measured by
itself (`--only queue`); the page's others stay. It takes hours and ends with 1 where a result misses what is promised.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sim_host.matrix import OUT, Case

from .fault_matrix import all_cases, run_cases, run_stock, stock_cases
from .hosts import CACHE, ROOT
from .long_queue import run_queue
from .reliability_page import as_promised, misses, page
from .unfinished import all_rows, kept_rows
from .waiting import run_waiting

PAGE = ROOT / "docs" / "measurements" / "reliability.md"
PARTS = ("matrix", "stock", "queue", "waiting", "suites", "page")
WAITING = 200
"""Prompts that wait while a card is lost or hangs."""
SUITES = ("memory", "attention", "sampling")
"""Suites of tests/sim_host that leave their results under their own names."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queue", type=int, default=500, help="prompts of the long queue")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of the faults there, to see it again"
    )
    parser.add_argument("--only", choices=PARTS, help="leave the rest as it was measured before")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    OUT.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], int]] = {
        "matrix": lambda: _run_rows("full-matrix", all_cases(), run_cases, good=as_promised),
        "stock": lambda: _run_rows("stock", stock_cases(), run_stock, good=lambda row: True),
        "queue": lambda: _keep("queue", run_queue(arguments.queue, arguments.seed, _folder("queue"))),
        "waiting": lambda: _keep("waiting", run_waiting(WAITING, _folder)),
        "suites": _run_suites,
        "page": lambda: 0,
    }
    failed = max(run() for name, run in parts.items() if arguments.only in (None, name))
    results = {name: _kept(name) for name in ("full-matrix", "stock", "queue", "waiting", *SUITES)}
    PAGE.write_text(page(results, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    missed = misses(results)
    print("\n".join(missed))
    return 1 if failed or missed else 0


def _run_rows(name: str, cases: list[Case], run: Callable[..., Any], *, good: Callable[[Any], bool]) -> int:
    """Runs cases, and those that were not as they should be again until they are: then the next run is a new one."""
    unfinished = OUT / f"{name}.unfinished"
    rows = all_rows(unfinished, cases, lambda left: run(left, _folder), good=good)
    _keep(name, rows)
    if all(map(good, rows)):
        unfinished.unlink()
    return 0


def _run_suites() -> int:
    """Runs the suites that leave results of their own; answers 1 where one failed."""
    files = [f"tests/sim_host/test_{name}.py" for name in SUITES]
    command = [sys.executable, "-m", "pytest", "-m", "", *files]
    return int(subprocess.run(command, cwd=ROOT, check=False).returncode != 0)


def _folder(name: str) -> Path:
    """A new folder for a server."""
    base = CACHE / "reliability" / name
    shutil.rmtree(base, ignore_errors=True)
    return base


def _keep(name: str, result: object) -> int:
    (OUT / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 0


def _kept(name: str) -> Any:
    unfinished = kept_rows(OUT / f"{name}.unfinished")
    if unfinished:
        return list(unfinished.values())
    path = OUT / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
