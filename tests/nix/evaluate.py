"""Evaluate Nix expressions without a network and without a store."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.harness.programs import ensure_program

ROOT = Path(__file__).resolve().parents[2]
DEEP = Path(__file__).with_name("deep")


class NixError(Exception):
    """What Nix printed when an expression failed."""


@functools.cache
def nix_instantiate() -> str:
    """Path of ``nix-instantiate``; on Debian it is installed when missing.

    Raises:
        RuntimeError: it is missing and cannot be installed here.
    """
    return ensure_program("nix-instantiate", "nix-bin")


def run(*arguments: str) -> str:
    """Run ``nix-instantiate`` on the empty store in memory, which nothing can be added to."""
    command = [nix_instantiate(), "--store", "dummy://", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise NixError(done.stderr)
    return done.stdout


def evaluate(expression: str) -> Any:
    """Value of an expression that starts in the repository's root."""
    return json.loads(run("--eval", "--strict", "--json", "--expr", expression))


def nix(value: Any) -> str:
    """A Python value as a Nix expression."""
    return f"(builtins.fromJSON {json.dumps(json.dumps(value)).replace('${', chr(92) + '${')})"
