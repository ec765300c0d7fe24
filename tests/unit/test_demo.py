"""What `make demo` shows while it works, and the graphs that tests are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.demo import run_with_progress
from tests.harness.workflows import exchanged, text_to_image


class Told:
    """Stands in for a client: tells of a file that is read and of steps, as ComfyUI does."""

    def run(self, workflow: Any, *, on_event: Callable[[str, dict[str, Any]], None], timeout_s: float) -> None:
        for node, value, total in (("loader", 1 << 30, 1 << 31), ("sampler", 3, 20)):
            on_event("executing", {"node": node})
            on_event("progress", {"node": node, "value": value, "max": total})


def test_a_file_is_counted_in_bytes_and_sampling_in_steps(capsys: pytest.CaptureFixture[str]) -> None:
    graph = {"loader": {"class_type": "XPULoadCheckpoint"}, "sampler": {"class_type": "XPUKSampler"}}
    run_with_progress(Told(), graph)  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    assert "1.07G/2.15G" in shown
    assert "3/20" in shown
    assert "step/s" in shown.split("2.15G")[-1]


def test_an_exchanged_graph_shares_no_input_with_the_first() -> None:
    graph = text_to_image()
    exchanged(graph)["sampler"]["inputs"]["seed"] = -1
    assert graph["sampler"]["inputs"]["seed"] != -1
