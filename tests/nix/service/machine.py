"""Runs the script of a NixOS test on the machine that it is started on, with the standard library alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


class Machine:
    """The part of the NixOS test driver's machine that our script uses."""

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True)

    def succeed(self, command: str) -> str:
        done = self._run(command)
        if done.returncode != 0:
            sys.exit(f"`{command}` ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def wait_until_succeeds(self, command: str, timeout: float = 300) -> str:
        end = time.monotonic() + timeout
        while (done := self._run(command)).returncode != 0:
            if time.monotonic() > end:
                sys.exit(f"`{command}` did not succeed within {timeout} s: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            time.sleep(1)
        return done.stdout

    def wait_for_unit(self, unit: str, timeout: float = 300) -> None:
        self.wait_until_succeeds(f"systemctl is-active {unit}", timeout)

    def wait_for_open_port(self, port: int, timeout: float = 300) -> None:
        self.wait_until_succeeds(f"</dev/tcp/127.0.0.1/{port}", timeout)


if __name__ == "__main__":
    exec(compile(Path(sys.argv[1]).read_text(encoding="utf-8"), "testScript", "exec"), {"machine": Machine()})
