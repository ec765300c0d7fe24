"""The accelerator that a benchmark is run on."""

from __future__ import annotations

import argparse

from xpu_utils.machine.devices import Device, find_devices


class NoAcceleratorError(ValueError):
    """There is no such accelerator; the message is one sentence."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--device` to a measurement's options."""
    parser.add_argument("--device", default="auto", help="an accelerator, xpu:0 say")


def chosen(bench: str, name: str) -> Device:
    """The accelerator of that name, or the best one for "auto".

    Raises:
        NoAcceleratorError: there is none.
    """
    inventory = find_devices()
    device = inventory.best if name == "auto" else inventory.find(name)
    if device is None or device.type == "cpu":
        raise NoAcceleratorError(f"bench {bench}: {name} is no accelerator, see `python -m xpu_utils devices`.")
    return device
