"""Runs this suite with every front end that users have, on classic and on Vue nodes, and prints a table.

python -m tests.browser.table [VERSION|newest ...]
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.harness.front_ends import DEFAULT, NEWER
from tests.harness.hosts import ROOT
from tests.harness.outcomes import FINE, Row, run_tests, table

NODES = {"classic": "0", "Vue": "1"}
OUT = ROOT / "out" / "front-ends"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=(DEFAULT, *NEWER), metavar="VERSION")
    OUT.mkdir(parents=True, exist_ok=True)
    rows = [_run(version, nodes) for version in parser.parse_args().versions for nodes in NODES]
    print(table(rows))
    return int(not all(row.as_expected for row in rows))


def _run(version: str, nodes: str) -> Row:
    """Those tests that open newer front ends themselves are left to the runs with these."""
    environment = {**os.environ, "FRONT_END": version, "VUE_NODES": NODES[nodes]}
    report = OUT / f"{version}-{nodes}.xml"
    outcomes = run_tests("tests/browser", "-k", "not newer", cwd=ROOT, environment=environment, report=report)
    differing = tuple(f"{name}: {ended}" for name, ended in outcomes.items() if ended not in FINE)
    return Row(f"front end {version}, {nodes} nodes", outcomes, differing)


if __name__ == "__main__":
    sys.exit(main())
