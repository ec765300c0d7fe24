"""A process that begins anew: the same command, in its place, whatever its threads wait for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, threading
from pathlib import Path
from xpu_utils.recovery.again import begin_anew, own_command

name, said = sys.argv[1:]
with Path(said).open("a") as log:
    log.write(f"{sys.argv[1:]} {sys.flags.no_site} {os.getcwd()}\\n")
left = Path(said + ".left")
if not left.exists():
    left.write_text("")
    os.set_inheritable(os.open(said, os.O_RDONLY), True)
    started_in = os.getcwd()
    os.chdir("/")
    threading.Thread(target=threading.Event().wait).start()  # an orderly end would wait for it
    os.name = name
    begin_anew(own_command(), started_in)
open_files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
assert said not in open_files or name == "nt", open_files
Path(said + ".done").write_text("")
"""


@pytest.mark.parametrize("name", ["posix", "nt"])
def test_the_same_command_runs_in_the_same_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "a program.py").write_text(PROGRAM)
    said = str(tmp_path / "what it said")
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-X", "utf8", "a program.py", name, said]
    process = subprocess.Popen(command, cwd=tmp_path, env={"PYTHONPATH": root}, stdout=subprocess.PIPE, text=True)
    process.communicate(timeout=600)  # ends with the last process that holds the pipe
    assert Path(said + ".done").exists()
    first, second = Path(said).read_text().splitlines()
    assert first == second
    assert process.returncode == (0 if name == "posix" else -15), "on Windows another process goes on"
