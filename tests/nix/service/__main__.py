"""`make nix-service`: the script of nix/checks/vm.nix against the built service, under the real systemd in namespaces.

Root is needed for the namespaces. All that the hardened service uses lies below ``AT``, which only this process and
its children see: /root, /home and /tmp, where Python and the clone may lie, are hidden from the service.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.harness.environment import host_python
from tests.harness.hosts import CACHE, host_path
from tests.harness.programs import ensure_program

from ..build import VERSION, Store

AT = Path("/mnt")
SYSTEMD = Path("/lib/systemd/systemd")
KEPT = CACHE / "nix-service"
LIMIT_S = 900
TIMED_OUT = 124  # of timeout(1)


class CannotRun(Exception):
    """Why not here, as a sentence."""


def check() -> None:
    """Raises CannotRun where namespaces, systemd or nixpkgs' lib are missing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise CannotRun("make nix-service needs root on Linux, for namespaces of its own: run it in a container.")
    if "NIXPKGS_LIB" not in os.environ:
        raise CannotRun("make nix-service needs NIXPKGS_LIB=, a checkout of nix-community/nixpkgs.lib.")
    try:
        ensure_program("systemd-analyze", "systemd")
    except RuntimeError as error:
        raise CannotRun(str(error)) from error
    if not SYSTEMD.exists():
        raise CannotRun(f"make nix-service needs systemd at {SYSTEMD}, where Debian has it.")
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode:
        raise CannotRun("make nix-service may make no namespaces here: run it where `unshare --mount true` works.")


def bind(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", source, target], check=True)


def visible_python() -> Path:
    """A program that is the host's Python with its packages, all of it below ``AT``."""
    facts = "import json, sys; print(json.dumps([sys.base_prefix, sys.path, list(sys.version_info[:2])]))"
    answer = subprocess.run([host_python(host_path(VERSION)), "-c", facts], capture_output=True, text=True, check=True)
    prefix, paths, version = json.loads(answer.stdout)
    bind(Path(prefix), AT / "python")
    packages = [path for path in paths if path.endswith("site-packages") and not path.startswith(prefix)]
    for number, path in enumerate(packages):
        bind(Path(path), AT / f"packages-{number}")
    behind = ":".join(str(AT / f"packages-{number}") for number in range(len(packages)))
    program = AT / "python3"
    program.write_text(
        f"#!/bin/bash\nexport LD_LIBRARY_PATH={AT}/python/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
        f"export PYTHONPATH=${{PYTHONPATH:+$PYTHONPATH:}}{behind}\n"
        f'exec {AT}/python/bin/python{version[0]}.{version[1]} "$@"\n'
    )
    program.chmod(0o755)
    return program


def run() -> int:
    """Builds, starts systemd and answers what the script's process ended with."""
    here = Path(__file__).parent
    KEPT.mkdir(parents=True, exist_ok=True)
    bind(KEPT, AT)
    built = Store(AT).build(
        "units", "tmpfiles", "script", file="tests/nix/deep/units.nix", python=str(visible_python())
    )
    for name in ("data", "status", "console"):
        path = AT / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (AT / "data").mkdir()
    for name in ("init.sh", "machine.py"):
        shutil.copyfile(here / name, AT / name)
    for name, path in zip(("units", "tmpfiles", "script"), built, strict=True):
        (AT / name).unlink(missing_ok=True)
        (AT / name).symlink_to(path)
    spaces = ("--pid", "--fork", "--cgroup", "--uts", "--ipc", "--mount-proc", "--kill-child")
    systemd = ["unshare", "--mount", *spaces, "bash", str(AT / "init.sh"), str(AT), str(SYSTEMD)]
    with (AT / "console").open("wb") as log:
        ended = subprocess.run(["timeout", str(LIMIT_S), *systemd], stdout=log, stderr=log, check=False)
    status = AT / "status"
    if not status.is_file():
        print((AT / "console").read_text(errors="replace")[-3000:])
        how = (
            f"did not run the script within {LIMIT_S} s" if ended.returncode == TIMED_OUT else "ended without a report"
        )
        raise CannotRun(f"systemd {how}; its log is in {KEPT}.")
    report = status.read_text()
    print(report, end="")
    return 0 if report.endswith("passed\n") else 1


def main() -> None:
    try:
        if os.environ.get("XPU_NODES_NIX_SERVICE") == "inside":
            sys.exit(run())
        check()
    except CannotRun as error:
        sys.exit(str(error))
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.nix.service"]
    os.execvpe(command[0], command, os.environ | {"XPU_NODES_NIX_SERVICE": "inside"})


if __name__ == "__main__":
    main()
