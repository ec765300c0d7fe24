"""What one prompt learns from memory that ran out serves the next."""

from __future__ import annotations

from pathlib import Path

from tests.harness.hosts import host_environment

from .worker import answers


def test_a_model_that_takes_more_than_comfyui_reckons_fails_in_one_prompt_only(tmp_path: Path, host: Path) -> None:
    answered = answers("short_memory_cases", {"devices": ["arc-b580"]}, tmp_path, host, host_environment())
    found = answered["prompts"]
    first, *later = found["failed"]
    assert first > 0, found
    assert later == [0] * len(later), found
    assert all(found["equal"]), found
    # a driver that fails with memory free teaches nothing: no later prompt's bits change
    driver = answered["driver"]
    before, within, after = driver["batches"]
    assert 1 in within, driver
    assert after == before, driver
    assert driver["equal"][2], driver
