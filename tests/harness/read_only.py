"""The pack as the Nix store or another user's installation has it: a folder that cannot be written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .hosts import ROOT

BOUND = ("-m", "tests.harness.read_only")
"""What to put between Python and its script, so that a read-only folder stops root too, as many containers have it."""


@contextlib.contextmanager
def read_only_pack(folder: Path) -> Iterator[Path]:
    """Copies the pack's tracked files into a folder and makes it read-only until the block ends.

    Raises:
        AssertionError: something was written into it all the same.
    """
    _copy_tracked(folder)
    before = contents(folder)
    subprocess.run(["chmod", "-R", "a-w", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    assert contents(folder) == before, "the pack wrote into its own folder"


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file and the word "folder" for every folder, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def _copy_tracked(target: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def main() -> None:
    """Becomes a Python whose root may no longer write where modes forbid it; see ``BOUND``."""
    command = [sys.executable, *sys.argv[1:]]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set", "-dac_override", *command]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
