"""`python -m xpu_utils batch WORKFLOW.json`: many jobs from one workflow, on all devices of one or many machines."""

from __future__ import annotations

import argparse
from pathlib import Path

from .workers import add_options

EPILOG = """\
A setting names a node by its id or its title: --set 6.text="a lighthouse", --set Prompt="a lighthouse".
The same command continues a batch that ended early, and does nothing twice. See docs/many-machines.md."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "batch", help="run a workflow many times, on all devices and machines", epilog=EPILOG
    )
    parser.add_argument("workflow", type=Path, help="in the API format: Workflow > Export (API)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NODE.input=VALUE", help="a value that all jobs have"
    )
    parser.add_argument("--seeds", metavar="1..100", help="a job for each of these seeds")
    parser.add_argument("--table", type=Path, metavar="FILE", help="a job for each row of a .csv or .jsonl file")
    parser.add_argument("--out", type=Path, default=Path("batch"), metavar="DIR", help="where results go (batch)")
    parser.add_argument("--name", default="{number}", metavar="PATTERN", help="their names: {number}, {seed}, {6.text}")
    add_options(parser)
    parser.add_argument("--dry-run", action="store_true", help="show the jobs, and do none")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Exit code 0: all jobs are done; 1: some are not; 2: they cannot be begun."""
    from ..batch import command  # with aiohttp, which no other command needs

    return command.run(arguments)
