"""The child process in which the doctor asks a driver: whatever becomes of it, the report is whole."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from xpu_utils.doctor import machine as machine_module
from xpu_utils.doctor import probe
from xpu_utils.doctor.examine import examine
from xpu_utils.doctor.findings import SYSTEMS, State
from xpu_utils.selftest.operations import Result

from .healthy_machine import machine

ABORT = [sys.executable, "-c", "import os; os.abort()"]
HANG = [sys.executable, "-c", "import time; time.sleep(60)"]
FAIL = [sys.executable, "-c", "raise RuntimeError('no such device')"]
SILENT = [sys.executable, "-c", "pass"]


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A child that writes a result and hangs. Its time begins then, however long a busy machine takes to start it."""
    written = tmp_path / "written"

    class Child(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            while not written.exists():
                assert self.poll() is None
                time.sleep(0.01)

    monkeypatch.setattr(subprocess, "Popen", Child)
    line = json.dumps(dataclasses.asdict(Result("softmax", "fp32", 0.0)))
    script = f"import time; print({line!r}, flush=True); open({str(written)!r}, 'w'); time.sleep(60)"
    return [sys.executable, "-c", script]


@pytest.mark.parametrize(
    ("command", "code", "evidence"),
    [
        (ABORT, "kernel-aborts", "child ended by"),
        (HANG, "kernel-hangs", "no answer within"),
        (FAIL, "kernel-fails", "no such device"),
        (SILENT, "kernel-fails", "child ended with code 0"),
    ],
)
def test_a_driver_that_aborts_or_hangs_takes_only_the_child_down(command: list[str], code: str, evidence: str) -> None:
    run = probe.run("xpu:0", limit_seconds=0.5 if command is HANG else 30, command=command)
    finding = probe.finding("xpu:0", run)
    assert (finding.code, finding.state) == (code, State.ERROR)
    assert evidence in finding.evidence
    assert set(finding.fixes) == set(SYSTEMS)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (ABORT, r"ends the process when devices are counted \(SIGABRT\)"),
        (HANG, "does not answer within 1 s when devices are counted"),
    ],
)
def test_a_driver_that_does_not_survive_counting_leaves_a_whole_report(command: list[str], why: str) -> None:
    left = probe.counted(limit_seconds=1 if command is HANG else 30, command=command)
    assert left is not None
    assert [device.id for device in left.devices] == ["cpu"]
    found = examine(machine(inventory=left))
    (failed,) = (entry for entry in found if entry.state is State.ERROR)
    assert (failed.code, failed.what) == ("device-failed", "xpu cannot be used")
    assert re.search(why, failed.evidence)
    assert machine_module.look(inventory=left).pyzes_problem == "not asked, as the driver failed"


@pytest.mark.parametrize("command", [SILENT, FAIL])
def test_a_child_that_fails_otherwise_leaves_the_counting_to_its_parent(command: list[str]) -> None:
    assert probe.counted(command=command) is None


def test_what_a_child_has_counted_is_counted_nowhere_else(tmp_path: Path) -> None:
    """In this process the driver fails in it, as `doctor_segfault.py` of reports has it."""
    script = "import os, runpy, sys, torch; torch.xpu.device_count = os.abort; "
    script += "sys.argv[1:] = ['doctor', '--json', '--server', '127.0.0.1:1']; "  # else another suite's
    script += "runpy.run_module('xpu_utils', run_name='__main__')"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(probe.ROOT), "XPU_NODES_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    codes = {finding["code"] for finding in json.loads(done.stdout)}
    assert {"processor", "kernel", "comfyui-unknown"} <= codes


def test_what_a_child_computed_before_it_hung_is_kept(hanging: list[str]) -> None:
    run = probe.run("xpu:0", limit_seconds=0.2, end_seconds=10, command=hanging)
    assert run.code is None
    assert [result.name for result in run.results] == ["softmax"]


def test_a_child_is_ended_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    class Stop(BaseException):
        """The host's way to stop a node."""

    def stop() -> None:
        if pid.exists():
            raise Stop

    pid = tmp_path / "pid"
    script = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(Stop):
        probe.run("xpu:0", command=[sys.executable, "-c", script], check_stop=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_bytes_that_are_no_text_and_half_a_line_of_a_child_are_passed_over() -> None:
    line = json.dumps(dataclasses.asdict(Result("softmax", "fp32", 0.0)))
    written = f"b'\\xff\\xfe\\n' + {line!r}.encode() + b'\\n{{}}\\nnull\\n{{\"name\": \"soft'"
    script = f"import sys; sys.stdout.buffer.write({written}); sys.stderr.buffer.write(b'\\xe9'); sys.exit(3)"
    run = probe.run("xpu:0", command=[sys.executable, "-c", script])
    assert (run.code, [result.name for result in run.results]) == (3, ["softmax"])
    assert probe.finding("xpu:0", run).evidence == "\N{REPLACEMENT CHARACTER}"


def test_a_child_that_cannot_be_killed_is_left_behind(hanging: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[subprocess.Popen[str]] = []
    kill = subprocess.Popen.kill
    # No signal reaches a process that waits inside a driver.
    monkeypatch.setattr(subprocess.Popen, "kill", lambda child: children.append(child))
    run = probe.run("xpu:0", limit_seconds=0.2, end_seconds=0.2, command=hanging)
    (child,) = children
    assert child.poll() is None, "the doctor waited for the child"
    kill(child)
    child.communicate()
    assert (run.code, [result.name for result in run.results]) == (None, ["softmax"])


def test_a_wrong_answer_of_a_kernel_is_an_error() -> None:
    run = probe.Run((Result("softmax", "fp16", 0.0), Result("gelu", "fp16", None, "the answer is not finite")), 0, "")
    finding = probe.finding("xpu:0", run)
    assert finding.code == "kernel-wrong"
    assert "1 of 2 operations" in finding.what
    assert "gelu in fp16: the answer is not finite" in finding.evidence
