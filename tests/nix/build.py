"""Build derivations for real, with Debian's programs in place of nixpkgs (buildable.nix)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.harness.environment import host_python
from tests.harness.hosts import SITE, host_path
from tests.harness.programs import ensure_program

from .evaluate import ROOT, NixError

VERSION = "0.3.75"
CONFIGURATION = "sandbox = false\nsubstitute = false\nbuild-users-group ="


class Store:
    """A Nix store of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            **{f"NIX_{name.upper()}_DIR": str(folder / name) for name in ("store", "state", "log", "conf")},
            "NIX_CONFIG": CONFIGURATION,
            "NIX_REMOTE": "",  # the machine's daemon has another store
        }

    def build(self, *attributes: str, file: str = "tests/nix/build.nix", **arguments: str) -> list[Path]:
        """The store paths of attributes of a file, in their order.

        Args:
            arguments: further arguments of the file's function, all of them text.

        Raises:
            NixError: one cannot be evaluated or built.
        """
        host = host_path(VERSION)
        given = {"python": str(host_python(host)), "site": str(SITE), "host": str(host), **arguments}
        given |= {"bash": shutil.which("bash") or "", "path": os.environ["PATH"]}
        command = [ensure_program("nix-build", "nix-bin"), "--no-out-link", file]
        command += [part for name, value in given.items() for part in ("--argstr", name, value)]
        command += [part for name in attributes for part in ("--attr", name)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=self.environment)
        if done.returncode != 0:
            raise NixError(done.stderr)
        return [Path(line) for line in done.stdout.splitlines()]
