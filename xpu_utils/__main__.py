"""`python custom_nodes/xpu-nodes <verb>` from ComfyUI's folder, `python -m xpu_utils <verb>` in the pack's."""

from __future__ import annotations

import argparse
import sys

from .commands import batch, bench, devices, doctor, my_gpu, serve, templates

VERBS = (devices, doctor, bench, batch, serve, my_gpu, templates)


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb, prints what it answers, returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python custom_nodes/xpu-nodes",
        description="What your devices are, what is wrong with them, how fast they are; many jobs on many of them.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="verb")
    for verb in VERBS:
        verb.add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    code, text = parsed.run(parsed)
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, errors="backslashreplace").decode(encoding))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
