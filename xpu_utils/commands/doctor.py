"""`python -m xpu_utils doctor`: why a device is not used, or not well, and what to paste to mend it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..doctor import probe
from ..doctor.examine import as_data, as_text, attachment, examine, examine_need, examine_packs, merge
from ..doctor.findings import exit_code
from ..doctor.machine import Machine, look
from ..doctor.server import DEFAULT_ADDRESS, examine_server
from ..forecast import RESERVED_BYTES, Size, forecast
from ..machine.devices import Device
from ..memory.free import read_memory
from ..telemetry.readings import Unavailable
from ..weights.check import CheckpointError, check_header
from ..weights.header import LoadError
from ..workers.setup import CannotStart, Setup, comfyui_folder

REPORT_FILE = Path("xpu-self-test.json")
_ESTIMATE = """
import json, sys
from pathlib import Path
*folders, file, size = sys.argv[1:]
sys.path[:0], sys.argv[1:] = folders, ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
from xpu_utils.forecast import Size
from xpu_utils.host.loading.work import family, step
found = step(family(Path(file)), Size.of(size))
print(json.dumps(found and [found[0], str(found[1])]))
"""
"""In a process of its own: this one holds none of ComfyUI's code."""
NEEDED_IS_MISSING = 3
"""The exit code where there is no device of the type that was needed."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("doctor", help="find out why a device is not used, or not well")
    parser.add_argument("file", nargs="?", type=Path, help="only say what this model file holds, and what it will need")
    parser.add_argument("--size", metavar="WxH", help="of FILE's step, by ComfyUI's estimate: 1024x1024, 832x480x81")
    parser.add_argument("--comfyui", default="", metavar="DIR", help="whose estimate, where it is not around this pack")
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
        setup = Setup.of(arguments.comfyui, "")
        return _foretold(arguments.file, look().inventory.devices, arguments.size, setup, in_json=arguments.json)
    if arguments.size is not None:
        return 2, "doctor: --size is of a model's step, name its file as well."
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


def _foretold(
    file: Path, devices: Sequence[Device], size: str | None, setup: Setup, *, in_json: bool
) -> tuple[int, str]:
    """A line for each device whose free memory is known: what will happen with a file there."""
    try:
        check_header(file)
        work = {} if size is None else _work(file, size, setup)
        told = [forecast(file, device, read_memory(device).free_bytes, **work) for device in devices]
        if in_json:
            found = [{**dataclasses.asdict(one), "outcome": one.outcome} for one in told]
            return 0, json.dumps(found, indent=2, default=lambda content: content.value)
        return 0, "\n".join(dict.fromkeys(map(str, told)))
    except (LoadError, CheckpointError, Unavailable, CannotStart, ValueError) as error:
        return 2, f"doctor: {error}"


def _work(file: Path, size: str, setup: Setup) -> dict[str, Any]:
    """What `forecast` is told of a step.

    Raises:
        ValueError: it is no size, or ComfyUI knows none of what the file holds.
        CannotStart: there is no ComfyUI, or its code did not answer.
    """
    Size.of(size)
    comfyui = comfyui_folder(setup)
    command = [sys.executable, "-c", _ESTIMATE, str(comfyui), str(probe.ROOT), str(file.resolve()), size]
    ended = probe.watched(command, limit_seconds=probe.TIME_LIMIT_SECONDS)
    if ended.code != 0:
        raise CannotStart(f"the ComfyUI in {comfyui} did not say what a step needs ({ended.error}): leave out --size.")
    estimate = json.loads(ended.output.splitlines()[-1])
    if estimate is None:
        raise ValueError(f"ComfyUI knows of no step by size of what {file.name} holds: leave out --size.")
    return {"work_bytes": max(RESERVED_BYTES, estimate[0]), "work_of": f"with a step at {estimate[1]}"}


def unwritable(file: Path) -> str:
    """Why the file cannot be written, asked before minutes are spent on its content; empty where it can."""
    try:
        file.open("a").close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
