"""`python -m tests.contract`: records what the ComfyUI at COMFYUI_PATH offers of what we touch, and checks our code.

With `news` it prints instead, in Markdown, what is otherwise there than in the newest record of an older ComfyUI.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from xpu_utils.doctor.comfyui import in_order

from .check import Finding, check
from .contract import Contract, Record
from .facts import Facts
from .host import Host
from .news import news
from .pack import Pack
from .reading import read
from .touches import Touch

ROOT = Path(__file__).resolve().parents[2]
RECORDS = Path(__file__).with_name("records")


def record(folder: Path) -> Facts:
    """The facts of a host that our code touches.

    Raises:
        ValueError: there is no ComfyUI.
    """
    host = Host(folder)
    check(touches(host.roots), Contract(host), {}, host.version)  # asks for all that is to be recorded
    return host.facts()


def findings(facts: Facts) -> list[Finding]:
    """What of our code does not bind by a record."""
    return check(touches(), Contract(Record(facts)), facts.wrapped, facts.version)


def touches(further_roots: Iterable[str] = ()) -> list[Touch]:
    """Every touch of the pack on the hosts recorded, and on one with these roots."""
    return _touches(_recorded_roots().union(further_roots))


@functools.cache
def _recorded_roots() -> frozenset[str]:
    return frozenset(root for file in RECORDS.glob("*.json") for root in Facts.load(file).roots)


@functools.cache
def _touches(roots: frozenset[str]) -> list[Touch]:
    return read(Pack(ROOT), roots)


def main() -> int:
    folder = os.environ.get("COMFYUI_PATH")
    if not folder:
        print("COMFYUI_PATH is not set: name the ComfyUI to record.", file=sys.stderr)
        return 2
    try:
        facts = record(Path(folder))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if sys.argv[1:] == ["news"]:
        print(compared(facts))
        return 0
    return _keep(facts)


def compared(facts: Facts) -> str:
    """What is otherwise on a host than in the newest record of an older one, in Markdown."""
    older = [known for known in recorded() if in_order(known.version) < in_order(facts.version)]
    if not older:
        return f"ComfyUI {facts.version} is older than every other that is recorded, nothing can be compared with it."
    return news(older[-1], facts, touches(facts.roots))


def recorded() -> list[Facts]:
    """The records of whole hosts, the oldest first."""
    known = [Facts.load(file) for file in RECORDS.glob("*.json")]
    return sorted((facts for facts in known if not facts.partial), key=lambda facts: in_order(facts.version))


def _keep(facts: Facts) -> int:
    """Writes a record and says what of our code does not bind by it."""
    RECORDS.mkdir(exist_ok=True)
    file = RECORDS / f"{facts.version}.json"
    facts.save(file)
    found = findings(facts)
    print(f"{file.relative_to(ROOT)}: {len(facts.modules)} modules, {file.stat().st_size >> 10} KiB")
    for module in facts.unseen:
        print(f"not seen: {module}")
    for finding in found:
        print(finding)
    failures = sum(not finding.guard for finding in found)
    print(f"{failures} of our touches do not bind, {len(found) - failures} are feature-detected.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
