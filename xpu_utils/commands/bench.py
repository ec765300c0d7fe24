"""`python -m xpu_utils bench`: the quick table of every device."""

from __future__ import annotations

import argparse

from ..bench import quick


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("bench", help="measure the devices, or compare two measurements")
    quick.add_options(parser)
    parser.set_defaults(run=quick.run)
