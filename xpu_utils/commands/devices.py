"""`python -m xpu_utils devices`: the devices of this machine, and why others cannot be used."""

from __future__ import annotations

import argparse

from ..doctor.unused import explained
from ..machine.devices import find_devices
from ..memory.listing import as_json, as_text
from ..selftest import gates


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("devices", help="list the devices, and why others cannot be used")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    inventory = explained(find_devices())
    if arguments.json:
        return 0, as_json(inventory)
    return 0, "\n".join(filter(None, (as_text(inventory), gates.as_text(inventory.accelerators))))
