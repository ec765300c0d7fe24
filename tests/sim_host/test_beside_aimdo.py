"""Beside comfy-aimdo the free figure sees other programs and what aimdo itself holds and gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.harness.hosts import host_environment

from .worker import answers

GIB = 1 << 30
SLACK_BYTES = 64 << 20
"""What PyTorch's allocator takes in whole blocks."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, host: Path) -> Any:
    config = {"devices": [{"preset": "arc-b580", "other_process_bytes": 3 * GIB}]}
    told = answers("aimdo_cases", config, tmp_path_factory.mktemp("aimdo"), host, host_environment())
    return told["free_memory"]


def test_the_figure_sees_other_programs_and_what_aimdo_holds(found: Any) -> None:
    expected = found["total"] - sum(found["taken"].values())
    assert abs(found["held"] - expected) < SLACK_BYTES


def test_what_aimdo_gives_back_is_seen_at_once(found: Any) -> None:
    assert abs(found["given_back"] - found["held"] - found["taken"]["theirs"]) < SLACK_BYTES


def test_the_hooks_say_what_acts(found: Any) -> None:
    assert found["hooks"] == [
        "free memory: on, the figure of free memory counts other programs on xpu:0",
        "memory fraction: off, comfy-aimdo's allocator is in PyTorch's place and takes no limit",
    ]
    assert found["present"] == ["comfy-aimdo"]
    assert found["blind"].startswith("free memory: off, ComfyUI's own figure is used: ")
    assert found["again"] == found["hooks"][0]
