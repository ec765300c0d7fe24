"""`python -m xpu_utils bench`: the quick table of every device, or one of the measurements in `xpu_utils/bench`."""

from __future__ import annotations

import argparse
from types import ModuleType

from ..bench import cpu, load, quick, stream

MEASUREMENTS: tuple[ModuleType, ...] = (cpu, stream, load)
"""Modules of the measurements beside the quick table: each has `add_parser(subparsers)`."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("bench", help="measure the devices; without a name: the quick table")
    quick.add_options(parser)
    parser.set_defaults(run=quick.run)
    if MEASUREMENTS:
        measurements = parser.add_subparsers(metavar="measurement")
        for measurement in MEASUREMENTS:
            measurement.add_parser(measurements)
