"""Evaluate Nix expressions without a network and without a store."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.harness.hosts import CACHE
from tests.harness.programs import ensure_program

ROOT = Path(__file__).resolve().parents[2]
NIXEVAL = "nixeval==0.1.1"


class NixError(Exception):
    """What Nix printed when an expression failed."""


@functools.cache
def evaluator() -> tuple[str, ...]:
    """Command that prints the value of an expression, its last argument, as JSON.

    Debian's Nix, on the empty store in memory, which nothing can be added to; where it can be had neither here nor
    from Debian, the evaluator on PyPI, which is enough for all but the deep tests.
    """
    try:
        program = ensure_program("nix-instantiate", "nix-bin")
    except RuntimeError:
        return python_evaluator()
    return (program, "--store", "dummy://", "--eval", "--strict", "--json", "--expr")


def python_evaluator() -> tuple[str, ...]:
    """The same with ``nixeval``, which is kept apart from our own Python's packages.

    Raises:
        subprocess.CalledProcessError: it cannot be downloaded.
    """
    folder = CACHE / "nixeval"
    if not (folder / "nixeval").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), NIXEVAL]
        subprocess.run(command, check=True)
    script = f"import json, sys; sys.path.insert(0, {str(folder)!r}); import nixeval"
    return (sys.executable, "-c", f"{script}; print(json.dumps(nixeval.loads(sys.argv[1])))")


def evaluate(expression: str, command: tuple[str, ...] | None = None) -> Any:
    """Value of an expression that starts in the repository's root."""
    done = subprocess.run([*(command or evaluator()), expression], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        raise NixError(done.stderr)
    return json.loads(done.stdout)


def nix(value: Any) -> str:
    """A Python value as a Nix expression."""
    return f"(builtins.fromJSON {json.dumps(json.dumps(value)).replace('${', chr(92) + '${')})"
