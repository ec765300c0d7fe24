"""`make hosts`: the suites that need a ComfyUI, on the chosen one, and its own tests with and without the pack."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import host_suite
from .hosts import ROOT, host_path, host_version
from .outcomes import FINE, Row, run_tests, table

OURS = ("tests/sim_host", "tests/families", "tests/host", "tests/browser")
OUT = ROOT / "out" / "hosts"


def main() -> int:
    host = host_path()
    version = host_version(host)
    out = OUT / version
    out.mkdir(parents=True, exist_ok=True)
    # As in `make test`: each computes on one thread, and waits for servers a part of its time.
    with ThreadPoolExecutor(max_workers=3) as pool:
        ours = [pool.submit(_run, folder, out) for folder in OURS]
        own = pool.submit(lambda: list(host_suite.compared(host)))
        rows = [*(suite.result() for suite in ours), *own.result()]
    front_end = importlib.metadata.version("comfyui-frontend-package")
    page = f"ComfyUI {version}, front end {front_end}:\n\n{table(rows)}\n"
    (out / "table.md").write_text(page, encoding="utf-8")
    print(page)
    return int(not all(row.as_expected for row in rows))


def _run(folder: str, out: Path) -> Row:
    """Runs a suite of ours; its log and report are left in `out`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    everything = ("-m", "")  # the matrices too
    outcomes = run_tests(
        folder, *everything, cwd=ROOT, environment=environment, report=out / f"{Path(folder).name}.xml"
    )
    return Row(folder, outcomes, tuple(f"{name}: {ended}" for name, ended in outcomes.items() if ended not in FINE))


if __name__ == "__main__":
    sys.exit(main())
