"""Where something is missing, the tests and `make nix-service` say so in a sentence, and the machine is left alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .evaluate import ROOT
from .service import __main__ as service


@pytest.mark.parametrize("in_ci", [False, True])
def test_without_nix_what_is_built_is_left_out_with_a_sentence_but_not_in_ci(tmp_path: Path, in_ci: bool) -> None:
    (tmp_path / "git").symlink_to(shutil.which("git") or "")
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "NIXPKGS_LIB")}
    environment |= {"PATH": str(tmp_path)} | ({"CI": "true"} if in_ci else {})
    command = [sys.executable, "-m", "pytest", "--collect-only", "tests/nix"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    said = "The tests need nix-build: install it"
    assert "test_lib.py" in done.stdout or in_ci
    assert "test_build.py::" not in done.stdout
    assert (done.returncode == 0, said in done.stdout, said in done.stderr) == (not in_ci, not in_ci, in_ci)


def test_the_first_process_of_the_service_s_machine_does_nothing_on_another() -> None:
    script = (ROOT / "tests/nix/service/init.sh").read_bytes()
    user = 65534 if os.geteuid() == 0 else None  # who could change nothing
    done = subprocess.run(["bash", "-s", "/nowhere", "/nowhere"], input=script, capture_output=True, user=user)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"init.sh would change this machine: run make nix-service" in done.stderr


@pytest.mark.parametrize("inside", [False, True])
def test_what_keeps_the_service_from_running_is_one_sentence(monkeypatch: pytest.MonkeyPatch, inside: bool) -> None:
    def cannot() -> int:
        raise service.CannotRun("Not here.")

    monkeypatch.setattr(service, "run" if inside else "check", cannot)
    monkeypatch.setenv("XPU_NODES_NIX_SERVICE", "inside" if inside else "")
    with pytest.raises(SystemExit, match=r"^Not here\.$"):
        service.main()
