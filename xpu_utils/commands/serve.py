"""`python -m xpu_utils serve`: one address that speaks ComfyUI's API, over all devices of one or many machines."""

from __future__ import annotations

import argparse
from pathlib import Path

from .workers import add_options


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="one address with ComfyUI's API for all devices and machines",
        epilog="Where there is a token, every request needs it. See docs/many-machines.md.",
    )
    parser.add_argument("--listen", default="127.0.0.1", metavar="HOST", help="another one than this needs a token")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--least", type=int, default=1, metavar="N", help="workers that always run (1)")
    parser.add_argument("--most", type=int, default=0, metavar="N", help="workers at most; else one per device")
    parser.add_argument(
        "--idle", type=float, default=300.0, metavar="SECONDS", help="after which workers beyond --least end (300)"
    )
    parser.add_argument("--out", type=Path, default=Path("serve"), metavar="DIR", help="where uploads and results go")
    parser.add_argument("--upload-mib", type=int, default=100, metavar="N", help="the largest upload (100)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="with the token; else XPU_SERVE_TOKEN")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    """Serves until it is interrupted. Exit code 2: it cannot begin."""
    from ..serve import command  # with aiohttp, which the other commands do not need

    return command.run(arguments)
