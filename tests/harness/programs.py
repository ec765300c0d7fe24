"""Programs from the distribution that tests need: Chromium, Nix."""

from __future__ import annotations

import os
import shutil
import subprocess


def ensure_program(program: str, package: str) -> str:
    """The path of a program, installed with Debian's package manager where it is missing and we may.

    Raises:
        RuntimeError: it is missing and cannot be installed here.
    """
    found = shutil.which(program)
    if found is None and shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=True)
        found = shutil.which(program)
    if found is None:
        raise RuntimeError(f"The tests need {program}: install it, as with Debian's package {package}.")
    return found
