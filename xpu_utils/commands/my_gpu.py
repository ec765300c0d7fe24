"""`python -m xpu_utils my-gpu`: all that a real card can be asked, in one report to send."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from ..doctor.machine import Machine
from ..hardware.report import Start, as_text, report, start_part
from .doctor import look_safely, unwritable

REPORT_FILE = Path("xpu-hardware.json")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("my-gpu", help=f"measure what your card does, and write {REPORT_FILE} to send")
    parser.add_argument("--device", help="only this device, such as xpu:0; every accelerator without it")
    parser.add_argument(
        "--fill", action="store_true", help="also fill its memory until it refuses, which may stop the machine"
    )
    parser.set_defaults(run=run)


def run(
    arguments: argparse.Namespace, *, look: Callable[[], Machine] = look_safely, start: Start = start_part
) -> tuple[int, str]:
    """Exit code 2 for a device that is not there or a file that cannot be written; what the device does is no error."""
    if problem := unwritable(REPORT_FILE):
        return 2, f"my-gpu: {REPORT_FILE} cannot be written here ({problem}), change to a folder of yours."
    machine = look()
    devices = machine.inventory.accelerators
    if arguments.device:
        devices = tuple(filter(None, [machine.inventory.find(arguments.device)]))
    if not devices:
        what = arguments.device or "An accelerator"
        return 2, f"my-gpu: {what} is not on this machine, ask `python custom_nodes/xpu-nodes doctor` why."
    if arguments.fill and any(device.type == "cpu" for device in devices):
        return 2, "my-gpu: --fill fills a card's memory, and the processor's is all that there is: leave it out."
    data = report(machine, devices, tell=_tell, fill=arguments.fill, start=start)
    REPORT_FILE.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return (
        0,
        f"{as_text(data)}\n\n{REPORT_FILE} holds no names, paths or serial numbers; how to send it: docs/hardware.md.",
    )


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
