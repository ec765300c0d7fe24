"""The workflows that watch the pack do what a person does by hand: their commands are the Makefile's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_command_of_make_is_there(workflow: Path) -> None:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    commands = " && ".join(step.get("run", "") for job in jobs for step in job["steps"])
    asked = set(re.findall(r"\bmake(?: --?[\w-]+)* ([\w-]+)", commands))
    assert asked
    assert asked <= TARGETS
