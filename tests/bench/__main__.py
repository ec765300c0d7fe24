"""`python -m tests.bench <measurement>`, from the repository, with the ComfyUI at COMFYUI_PATH or the cached one."""

from __future__ import annotations

import argparse
import sys

from . import batch, cpu, load, pressure, split, stream, switch


def main(arguments: list[str] | None = None) -> int:
    """Runs one measurement, prints what it answers, returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="measurement")
    for measurement in (cpu, stream, pressure, load, switch, batch, split):
        measurement.add_parser(subparsers)
    parsed = parser.parse_args(arguments)
    code, text = parsed.run(parsed)
    print(text)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
