"""Batches on workers that are real ComfyUI servers on simulated XPUs, while workers, machines and the command end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.many_workers import (
    batch,
    cluster,
    recorded,
    servers,
    simulated_comfyui,
    wait_for_results,
    wait_until,
)
from tests.harness.models import ensure_models
from tests.harness.server import running_server
from tests.harness.workflows import TRIFLE, Workflow, node, text_to_image, with_our_nodes


def drawing() -> Workflow:
    """A picture, with a node that can end its server."""
    graph = with_our_nodes(text_to_image())
    graph["end"] = node("TestEndServer", image=["decode", 0], now=False)
    graph["save"]["inputs"]["images"] = ["end", 0]
    return graph


def done(lines: list[dict[str, Any]]) -> list[int]:
    return [line["number"] for line in lines if line["state"] == "done"]


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    return simulated_comfyui(tmp_path / "comfyui")


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(drawing()))
    return file


def test_a_batch_whose_command_was_killed_goes_on_and_gives_up_what_nobody_can_do(
    tmp_path: Path, comfyui: Path, workflow: Path
) -> None:
    rows = [{"sampler.seed": seed} for seed in range(4)]
    rows += [{"end.now": True}, {"checkpoint.ckpt_name": "nobodys.safetensors"}, {"sampler.seed": 4}]
    table, out = tmp_path / "jobs.jsonl", tmp_path / "out"
    table.write_text("\n".join(map(json.dumps, rows)))
    with cluster(1) as (whole, _):
        options = (*("--table", str(table), "--out", str(out), "--comfyui", str(comfyui)), "--devices", "xpu:0")
        options = (*options, "--address", whole.address)
        first = batch(workflow, *options)
        before = wait_for_results(out, 2)
        assert servers(comfyui)
        first.kill()
        first.communicate()
        wait_until(lambda: not servers(comfyui))
        second = batch(workflow, *options)
        said, _ = second.communicate(timeout=300)
        assert not servers(comfyui), "it leaves no process"
    assert second.returncode == 1, said
    lines = recorded(out)
    assert [line["key"] for line in lines[: len(before)]] == [line["key"] for line in before]
    assert sorted(done(lines)) == [1, 2, 3, 4, 7], "all that can be done is, once"
    given_up = {line["number"]: line["error"] for line in lines if line["state"] == "failed"}
    assert given_up.keys() == {5, 6}
    assert given_up[5].startswith("failed on xpu:0 of ")
    assert "ComfyUI ended in the middle of a prompt" in given_up[5]
    assert given_up[6] == "no worker has nobodys.safetensors"
    assert "5 of 7 jobs are done" in said
    assert {stage["effective"] for line in lines for stage in line.get("stages", ())} == {"xpu:0"}
    assert sorted(file.name for file in out.glob("*.png")) == ["1.png", "2.png", "3.png", "4.png", "7.png"]


@pytest.mark.matrix
def test_sixty_jobs_survive_a_worker_a_machine_and_the_command(tmp_path: Path, comfyui: Path, workflow: Path) -> None:
    out = tmp_path / "out"
    with cluster(3) as (whole, nodes):
        options = ("--seeds", "1..60", "--out", str(out), "--comfyui", str(comfyui), "--devices", "xpu:0")
        options = (*options, "--address", whole.address)
        first = batch(workflow, *options)
        lines = wait_for_results(out, 8)
        os.kill(_process(lines[-1]), signal.SIGKILL)
        wait_for_results(out, 20)
        whole.remove_node(nodes[2], allow_graceful=False)
        wait_for_results(out, 35)
        first.kill()
        killed, _ = first.communicate()
        wait_until(lambda: not servers(comfyui))
        before = len(recorded(out))
        second = batch(workflow, *options)
        said, _ = second.communicate(timeout=600)
    print(killed, said)
    assert second.returncode == 0, said
    assert "the worker ended" in killed
    assert "is gone: its jobs go to others" in killed
    lines = recorded(out)
    assert 35 <= before < 60
    assert sorted(done(lines)) == list(range(1, 61)), "none is lost, none is done twice"
    assert len({line["worker"] for line in lines}) >= 5, "three, and two of the second command"
    pictures = {line["number"]: (out / line["files"][0]).read_bytes() for line in lines}
    assert pictures == _of_one_server(tmp_path / "one", comfyui)


@pytest.mark.matrix
def test_a_worker_whose_device_is_lost_ends_its_job_and_has_the_device_again_for_the_next(
    tmp_path: Path, workflow: Path
) -> None:
    lost = {"operator": "aten::convolution", "kind": "device_lost", "nth": 40}
    comfyui, out = simulated_comfyui(tmp_path / "losing", [lost]), tmp_path / "out"
    process = batch(workflow, "--seeds", "1..2", "--out", str(out), "--comfyui", str(comfyui), "--devices", "xpu:0")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    lines = recorded(out)
    assert done(lines) == [1, 2]
    for line in lines:
        assert [fault["kind"] for fault in line["faults"]] == ["device lost"]
        assert line["stages"][0]["effective"] == "xpu:0"
        assert "cpu" in {stage["effective"] for stage in line["stages"]}


@pytest.mark.matrix
def test_a_job_that_hangs_is_given_up_and_the_rest_goes_on(tmp_path: Path, comfyui: Path) -> None:
    graph = {**TRIFLE, "time": node("TestTakeTime", image=["picture", 0], seconds=0.0)}
    graph["shown"] = node("PreviewImage", images=["time", 0])
    (tmp_path / "workflow.json").write_text(json.dumps(graph))
    (tmp_path / "jobs.csv").write_text("time.seconds,picture.color\n900.0,1\n0.0,2\n")
    out = tmp_path / "out"
    options = ("--table", str(tmp_path / "jobs.csv"), "--out", str(out), "--comfyui", str(comfyui), "--silence", "5")
    process = batch(tmp_path / "workflow.json", *options, "--devices", "xpu:0")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 1, said
    assert "ComfyUI gave no sign of life for 5 s." in said
    assert {line["number"]: line["state"] for line in recorded(out)} == {1: "failed", 2: "done"}
    assert not servers(comfyui)


def _process(line: Mapping[str, Any]) -> int:
    """Of the worker that did a job."""
    return int(line["worker"].rpartition(":")[2])


def _of_one_server(base: Path, comfyui: Path) -> dict[int, bytes]:
    """The same pictures by a single server, one after the other."""
    pictures = {}
    with running_server(base, models=ensure_models("sd15-tiny"), host=comfyui, arguments=()) as server:
        for seed in range(1, 61):
            graph = drawing()
            graph["sampler"]["inputs"]["seed"] = seed
            pictures[seed] = server.client.image(server.client.run(graph), "save")
    return pictures
