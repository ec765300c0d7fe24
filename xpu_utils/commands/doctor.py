"""`python -m xpu_utils doctor`: why a device is not used, or not well, and what to paste to mend it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..doctor import probe
from ..doctor.examine import as_data, as_text, attachment, examine, examine_need, examine_packs, merge
from ..doctor.findings import exit_code
from ..doctor.machine import Machine, look
from ..doctor.server import DEFAULT_ADDRESS, examine_server
from ..forecast import forecast
from ..machine.devices import Device
from ..memory.free import read_memory
from ..telemetry.readings import Unavailable
from ..weights.check import CheckpointError, check_header
from ..weights.header import LoadError

REPORT_FILE = Path("xpu-self-test.json")
NEEDED_IS_MISSING = 3
"""The exit code where there is no device of the type that was needed."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("doctor", help="find out why a device is not used, or not well")
    parser.add_argument("file", nargs="?", type=Path, help="only say what this model file holds, and what it will need")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument(
        "--self-test",
        action="store_true",
        help=f"also test every operation in every precision, and write {REPORT_FILE} to attach to an issue",
    )
    parser.add_argument("--scan-packs", type=Path, metavar="DIR", help="also scan this custom_nodes folder for CUDA")
    parser.add_argument(
        "--server",
        default=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help=f"the running ComfyUI whose own findings are added (default {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--need", metavar="TYPE", help="end with 3, and an error, where no device of this type (xpu, ...) can be used"
    )
    parser.set_defaults(run=run)


def look_safely() -> Machine:
    """The facts of this machine, with the devices as a child process counts them."""
    return look(inventory=probe.counted())


def run(
    arguments: argparse.Namespace,
    *,
    look: Callable[[], Machine] = look_safely,
    check: Callable[..., probe.Run] = probe.run,
) -> tuple[int, str]:
    """Exit code 0: nothing worse than a note; 1: warnings; 2: errors, or a folder or file that cannot be used; 3: no
    device of the needed type."""
    if arguments.file is not None:
        return _foretold(arguments.file, look().inventory.devices)
    if arguments.scan_packs is not None and not arguments.scan_packs.is_dir():
        return 2, f"doctor: {arguments.scan_packs} is not a folder, name ComfyUI's custom_nodes."
    if arguments.self_test and (problem := unwritable(REPORT_FILE)):
        return 2, f"doctor: {REPORT_FILE} cannot be written here ({problem}), change to a folder of yours."
    machine = look()
    findings = merge(examine(machine), examine_server(arguments.server))
    runs = {device.id: check(device.id, everything=arguments.self_test) for device in machine.inventory.devices}
    findings += [probe.finding(device, run) for device, run in runs.items()]
    if arguments.self_test:
        numbers = {device: run.results for device, run in runs.items()}
        REPORT_FILE.write_text(attachment(machine, findings, numbers), encoding="utf-8")
    if arguments.scan_packs is not None:
        findings += examine_packs(arguments.scan_packs)
    missing = examine_need(machine, arguments.need) if arguments.need else []
    findings += missing
    findings.sort(key=lambda finding: -finding.state)
    code = NEEDED_IS_MISSING if missing else exit_code(findings)
    if arguments.json:
        return code, json.dumps(as_data(findings, machine.system), indent=2)
    text = as_text(findings, machine.system)
    return code, f"{text}\n\n{REPORT_FILE} is ready to be attached." if arguments.self_test else text


def _foretold(file: Path, devices: Sequence[Device]) -> tuple[int, str]:
    """A line for each device whose free memory is known: what will happen with a file there."""
    try:
        check_header(file)
        return 0, "\n".join(str(forecast(file, device, read_memory(device).free_bytes)) for device in devices)
    except (LoadError, CheckpointError, Unavailable) as error:
        return 2, f"doctor: {error}"


def unwritable(file: Path) -> str:
    """Why the file cannot be written, asked before minutes are spent on its content; empty where it can."""
    try:
        file.open("a").close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
