"""`python -m xpu_utils devices`: the devices of this machine, and why others cannot be used."""

from __future__ import annotations

import argparse

from ..doctor.unused import explained
from ..machine.devices import find_devices
from ..memory.listing import as_json, as_text


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("devices", help="list the devices, and why others cannot be used")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    inventory = explained(find_devices())
    return 0, as_json(inventory) if arguments.json else as_text(inventory)
