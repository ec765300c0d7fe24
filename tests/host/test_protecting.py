"""With the switch on, device=cpu and precision=fp32, stock graphs give bit for bit what they give with it off."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.harness.server import Server
from tests.harness.workflows import Workflow, node, text_to_image

from .conftest import Graph, Results, run_ok, sampled_and_drawn
from .graphs import GRAPHS, custom_sampler

SWITCH = "xpu-nodes.protect"


@pytest.fixture
def switch(server: Server) -> Iterator[Callable[[bool], None]]:
    """Turns it, and has ComfyUI forget what the last prompt made."""

    def turn(on: bool) -> None:
        server.client.post("/settings", {SWITCH: on, f"{SWITCH}.device": "cpu", f"{SWITCH}.precision": "fp32"})
        run_ok(server, {"look": node("TestReplaced", number=int(on))})

    yield turn
    turn(False)


def custom() -> Workflow:
    return custom_sampler(text_to_image(), placed=False)


@pytest.mark.parametrize("graph", [*GRAPHS, custom], ids=lambda graph: graph.__name__)
def test_on_gives_what_off_gives(
    server: Server, results: Results, switch: Callable[[bool], None], graph: Graph
) -> None:
    expected = results(graph, None)
    switch(True)
    actual = sampled_and_drawn(server, graph(), "on")
    jobs = server.client.get("/xpu/jobs?limit=1")["jobs"]
    assert {"sample", "decode"} <= {stage["name"] for job in jobs for stage in job["stages"]}, "nothing was protected"
    for found, right in zip(actual, expected, strict=True):
        assert right.std() > 0.01
        assert torch.equal(found, right)


def test_prompts_that_wait_while_it_is_thrown_are_served(server: Server, switch: Callable[[bool], None]) -> None:
    switch(False)
    queued = [server.client.queue(text_to_image(seed=seed)) for seed in (71, 72, 73)]
    server.client.post("/settings", {SWITCH: True})
    assert queued[-1] in [entry[1] for entry in server.client.get("/queue")["queue_pending"]]
    for prompt_id in queued:
        assert server.client.wait(prompt_id).error is None
    assert queued[-1] in {job["prompt_id"] for job in server.client.get("/xpu/jobs")["jobs"]}
