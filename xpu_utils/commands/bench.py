"""`python -m xpu_utils bench`: the quick table of every device, and the formats that it multiplies in."""

from __future__ import annotations

import argparse

from ..bench import quick
from ..machine.devices import find_devices
from ..selftest import gates
from ..selftest.products import FORMATS


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("bench", help="measure the devices, or compare two measurements")
    quick.add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """As `quick.run`; the text also says of each format whether it is native, emulated or refused."""
    code, text = quick.run(arguments)
    if code or arguments.compare or arguments.json:
        return code, text
    measured = [device for device in find_devices().accelerators if arguments.device in (None, device.id)]
    for device in measured:
        for name in FORMATS:
            gates.product(device, name)
    return code, "\n\n".join(filter(None, (text, gates.as_text(measured))))
