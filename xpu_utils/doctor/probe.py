"""Runs real kernels on a device in a child process with a time limit, and tells how that went."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..machine.cache import keep, recall
from ..machine.devices import Inventory, Rejection, cpu_device
from ..selftest.operations import Result
from .findings import Finding, State, everywhere
from .machine import look
from .system import RUNTIME

ROOT = Path(__file__).resolve().parents[2]

_START = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Not `python -m`: the Python that ComfyUI's Windows package embeds looks neither in the current folder nor in
PYTHONPATH."""

_COUNT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from xpu_utils.doctor.probe import count; count(sys.argv[1])"

TIME_LIMIT_SECONDS = 60.0
"""Loading torch takes 5 to 20 s, the first kernel's compilation on Alchemist up to 10 s."""

END_SECONDS = 5.0
"""A child that is killed ends at once, unless it waits inside the driver."""


LOOK_SECONDS = 0.5
"""How often the stop button is looked at."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child process ended."""

    output: str
    code: int | None
    """Its exit code, negative for a signal; None where it ran past the limit."""
    error: str
    """The last line it wrote to its error stream."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a child process left."""

    results: tuple[Result, ...]
    code: int | None
    """Its exit code, negative for a signal; None where it ran past the limit."""
    error: str
    """The last line it wrote to its error stream."""


def run(
    device: str,
    *,
    everything: bool = False,
    limit_seconds: float = TIME_LIMIT_SECONDS,
    end_seconds: float = END_SECONDS,
    command: Sequence[str] | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> Run:
    """Runs the numeric check (or all of them) in a child process.

    Args:
        device: id of the device, such as "xpu:0".
        everything: the whole self-test instead of one matrix product.
        limit_seconds: the child is ended after that.
        end_seconds: it is left behind so long after that.
        command: another program, for tests.
        check_stop: called while the child runs; what it raises ends the child, and is raised.
    """
    arguments = (device, "--all") if everything else (device,)
    command = command or module_command("xpu_utils.selftest.operations", *arguments)
    ended = watched(command, limit_seconds=limit_seconds, end_seconds=end_seconds, check_stop=check_stop)
    return Run(_results(ended.output), ended.code, ended.error)


def module_command(module: str, *arguments: str) -> list[str]:
    """What runs a module of this package as a program."""
    return [sys.executable, "-c", _START, str(ROOT), module, *arguments]


def watched(
    command: Sequence[str],
    *,
    limit_seconds: float,
    end_seconds: float = END_SECONDS,
    check_stop: Callable[[], None] = lambda: None,
) -> Ended:
    """Runs a child process that a driver may end or keep from ending; see `run`."""
    # Drivers write to both streams what is not UTF-8, and half lines when they abort.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )
    ends_at = time.monotonic() + limit_seconds
    while True:
        try:
            output, errors = child.communicate(timeout=max(0.0, min(LOOK_SECONDS, ends_at - time.monotonic())))
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() >= ends_at:
                return Ended(_end(child, end_seconds), None, "")
        try:
            check_stop()
        except BaseException:
            _end(child, end_seconds)
            raise
    lines = errors.strip().splitlines()
    return Ended(output, child.returncode, lines[-1][:300] if lines else "")


def _end(child: subprocess.Popen[str], limit_seconds: float) -> str:
    """Kills the child, or leaves it behind if it waits inside the driver, and returns what it wrote."""
    child.kill()
    try:
        return child.communicate(timeout=limit_seconds)[0]
    except subprocess.TimeoutExpired as late:
        return late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""


def _results(text: str) -> tuple[Result, ...]:
    found = []
    for fields in whole_lines(text):
        with contextlib.suppress(TypeError):
            found.append(Result(**fields))
    return tuple(found)


def whole_lines(text: str) -> Iterator[dict[str, Any]]:
    """What was written as a line of JSON, to its end."""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict):
                yield fields


def count(file: str) -> None:
    """In a child process: looks at all that a driver may fail in, and writes down the devices."""
    keep(Path(file), look().inventory, what="the devices")


def counted(*, limit_seconds: float = TIME_LIMIT_SECONDS, command: Sequence[str] | None = None) -> Inventory | None:
    """The devices as a child process counts them: a driver may hang in that, or end the process.

    Returns:
        What is left where it did; None where the child failed otherwise.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "devices.json"
        command = command or [sys.executable, "-c", _COUNT, str(ROOT), str(file)]
        child = run("xpu", limit_seconds=limit_seconds, command=command)
        told = recall(file, Inventory)
    if child.code is None:
        why = f"its driver does not answer within {limit_seconds:.0f} s when devices are counted"
    elif _aborted(child.code):
        why = f"its driver ends the process when devices are counted ({ended_by(child.code)})"
    else:
        return told
    fix = "Restart the machine; if it comes back, update the graphics driver and the kernel."
    return Inventory((cpu_device(),), (Rejection("xpu", why, fix),))


def _aborted(code: int) -> bool:
    return code < 0 or (sys.platform == "win32" and code > 1)


def finding(device: str, run: Run) -> Finding:
    """Judges a child's run."""
    if run.code is None:
        what = f"A kernel on {device} does not end"
        fixes = everywhere("Restart the machine; if it comes back, update the graphics driver and the kernel.")
        return Finding("kernel-hangs", State.ERROR, what, f"no answer within {TIME_LIMIT_SECONDS:.0f} s", fixes)
    if _aborted(run.code):
        what = f"The first kernel on {device} aborts: the compute runtime does not fit the kernel driver"
        return Finding("kernel-aborts", State.ERROR, what, f"child ended by {ended_by(run.code)}", RUNTIME)
    if run.code or not run.results:
        evidence = run.error or f"child ended with code {run.code}"
        return Finding("kernel-fails", State.ERROR, f"No kernel can be run on {device}", evidence, RUNTIME)
    wrong = [result for result in run.results if not result.right]
    if wrong:
        first = wrong[0]
        error = first.problem or f"error {first.relative_error:.2g}"
        what = f"{device} computes wrongly: {len(wrong)} of {len(run.results)} operations"
        fixes = everywhere("Update the graphics driver; until then choose another precision or device for that stage.")
        return Finding("kernel-wrong", State.ERROR, what, f"{first.name} in {first.precision}: {error}", fixes)
    return Finding("kernel", State.OK, f"Kernels run on {device}", f"{len(run.results)} right answers")


def ended_by(code: int) -> str:
    """The signal that ended a child, or its code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"code {code}"
