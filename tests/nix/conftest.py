"""What cannot run here is left out, and the last lines say so.

The deep tests need nixpkgs' lib and flake-parts, which no package registry has. NIXPKGS_LIB: a checkout of
nix-community/nixpkgs.lib; FLAKE_PARTS: one of hercules-ci/flake-parts.
"""

from __future__ import annotations

import os

import pytest

from tests.harness.programs import ensure_program

LEFT_OUT: dict[str, str] = {}

if not {"NIXPKGS_LIB", "FLAKE_PARTS"} <= os.environ.keys():
    LEFT_OUT["deep"] = "They need NIXPKGS_LIB= and FLAKE_PARTS=, see docs/nix.md."
try:
    ensure_program("nix-build", "nix-bin")
except RuntimeError as error:
    if "CI" in os.environ:  # where nobody reads what was left out
        raise
    LEFT_OUT["test_build.py"] = str(error)

collect_ignore = list(LEFT_OUT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, why in LEFT_OUT.items():
        terminalreporter.write_line(f"tests/nix/{name} was left out. {why}")
