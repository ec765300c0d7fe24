"""Runs a Python program on simulated XPUs: `python -m tests.xpu_sim -- PROGRAM.py ARGUMENTS`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import runpy
import sys
from pathlib import Path

from . import config as configuration
from . import control
from .build import CannotSimulate
from .simulation import install


def main() -> None:
    """Install the simulation, then run the program as python would."""
    options, program = _arguments()
    try:
        chosen = configuration.read(options.config) if options.config else configuration.Config()
        if options.device:
            devices = tuple(configuration.parse_device(name) for name in options.device)
            chosen = dataclasses.replace(chosen, devices=devices)
        simulation = install(chosen)
    except (configuration.BadConfig, CannotSimulate) as error:
        sys.exit(str(error))
    if chosen.control_port is not None:
        control.serve(simulation, chosen.control_port, chosen.control_port_file)
    _run(program)


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    own, separator, program = sys.argv[1:], "--", []
    if separator in own:
        position = own.index(separator)
        own, program = own[:position], own[position + 1 :]
    parser = argparse.ArgumentParser(
        usage=f"python -m {__package__} [--config FILE] [--device PRESET]... -- PROGRAM.py ARGUMENTS"
    )
    parser.add_argument("--config", type=Path, help="JSON file describing devices and faults")
    parser.add_argument("--device", action="append", help="a preset; may be repeated")
    options = parser.parse_args(own)
    if not program:
        parser.error("name a program after --")
    return options, program


def _run(program: list[str]) -> None:
    script = Path(program[0]).resolve()
    if not script.is_file():
        sys.exit(f"There is no program {script}.")
    sys.argv = [program[0], *program[1:]]
    # `-m` put the working directory first; a script has its own folder there instead, and child
    # processes find this package through PYTHONPATH only.
    if sys.path[0] in ("", os.getcwd()):
        sys.path.pop(0)
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
