"""The options that commands with workers share."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", default="", metavar="HOST:PORT", help="of a Ray cluster; else one starts here")
    parser.add_argument(
        "--comfyui", default="", metavar="DIR", help="ComfyUI's folder, where it is not around this pack"
    )
    parser.add_argument("--models", default="", metavar="DIR", help="a folder of models beside ComfyUI's own")
    parser.add_argument("--devices", default="", metavar="xpu:0,xpu:1", help="those used of each machine; else all")
    parser.add_argument(
        "--silence",
        type=float,
        default=1800,
        metavar="SECONDS",
        help="a worker that says nothing for so long in a prompt is taken for hanging (1800)",
    )
