"""The last part of `make my-gpu`: a dozen families, tiny, on real devices, all resident and streamed.

`python -m tests.families.on_device` adds a part to the report of `my-gpu` for each device in it. Each family is
compared with stock ComfyUI's answer on the CPU, in a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence

import torch

from tests.harness.hosts import host_environment, host_path
from tests.harness.in_process import enter
from xpu_utils.commands.my_gpu import REPORT_FILE
from xpu_utils.doctor.privacy import scrubbed_here
from xpu_utils.hardware.parts import WORDS, WRONG
from xpu_utils.hardware.report import ENDED, answered, as_text

from .listing import COVERING

LIMIT_S = 300
"""Of one family; the first kernels of a device are compiled for it."""
TOLERANCE = 0.02
"""Of the answer's size: devices round, and add up in another order, from step to step."""
SHARES = ("all", "10%")


Start = Callable[[str, str], Sequence[str]]
"""The command that measures a family on a device."""


def start_family(device: str, name: str) -> Sequence[str]:
    return [sys.executable, "-m", "tests.families.on_device", str(host_path()), device, name]


def add_families(names: Iterable[str] = COVERING, *, start: Start = start_family) -> None:
    """Measures families on every device of the report in this folder, and adds them to it."""
    report = json.loads(REPORT_FILE.read_text(encoding="utf-8"))
    for device, parts in report["parts"].items():
        found = []
        for name in names:
            print(f"{device}: {name}", file=sys.stderr)
            answer = answered(start(device, name), LIMIT_S)
            ended = f"ended {answer[ENDED]}" if ENDED in answer else "ended without an answer"
            found += answer["found"] or [{"family": name, "distances": {}, WORDS: name, WRONG: ended}]
        parts["families"] = {"found": found}
    scrubbed_report = scrubbed_here(report)
    REPORT_FILE.write_text(json.dumps(scrubbed_report, indent=1), encoding="utf-8")
    print(as_text(scrubbed_report))


def measure(host: str, device: str, name: str) -> None:
    enter(host)
    from xpu_utils.host.inventory import placement_for

    from . import listing
    from .handling import HANDLINGS

    (subject,) = (subject for subject in listing.known() if subject.name == name)
    handling = HANDLINGS[subject.kind]
    found: dict[str, float | None] = {}
    with torch.inference_mode():  # as ComfyUI runs its nodes
        stock = subject.work(subject.load()).double()
        for share in SHARES:
            placed = handling.place(subject.load(), placement_for(device, "fp32", share))
            answer = subject.work(placed).double()
            distance = float((answer - stock).norm() / stock.norm())
            found[share] = distance if math.isfinite(distance) else None
    far = [share for share, distance in found.items() if distance is None or distance > TOLERANCE]
    wrong = f"far from stock's with {' and '.join(far)} of the weights there" if far else ""
    print(json.dumps({"family": name, "distances": found, WORDS: name, WRONG: wrong}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(*sys.argv[1:])
    else:
        os.environ.update(host_environment())
        add_families()
