"""Hangs outside the work of a stage: what can be left behind is, and for what cannot a restart is offered."""

from __future__ import annotations

import json
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websocket

from tests.harness.hosts import host_environment
from tests.harness.models import ensure_models
from tests.harness.server import Server
from tests.harness.workflows import Workflow, with_stock_nodes
from xpu_utils.machine.cache import DIRECTORY_VARIABLE

from .matrix import faulty_server, graph, picture, set_next_fault
from .worker import answers


def stock(seed: int) -> Workflow:
    """By ComfyUI's own nodes, which nobody watches while the switch is off."""
    workflow = with_stock_nodes(graph("euler"))
    workflow["sampler"]["inputs"]["seed"] = seed
    return workflow


def eventually(answer: Callable[[], Any], timeout_s: float = 120) -> Any:
    """The first answer that is not empty; a server that is being restarted has none."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if found := answer():
                return found
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError("It did not happen in time.")


def ended(page: websocket.WebSocket, count: int) -> list[str]:
    """The prompts whose ends a page is told of, in their order."""
    found: list[str] = []
    while len(found) < count:
        frame = page.recv()
        if isinstance(frame, str):
            message = json.loads(frame)
            assert message["type"] != "execution_error", message
            if message["type"] == "execution_success":
                found.append(message["data"]["prompt_id"])
    return found


def kept_files(server: Server) -> list[Path]:
    return [*(server.base / "user").glob("xpu-nodes-queue*")]


def test_a_hang_that_nobody_watches_is_ended_by_a_restart_that_keeps_the_queue(tmp_path: Path) -> None:
    """The setting says how long is waited, as nothing in the environment does."""
    environment = {DIRECTORY_VARIABLE: str(tmp_path / "cache")}
    with faulty_server(tmp_path / "base", devices=1, environment=environment) as (server, _):
        client = server.client
        client.post("/settings", {"xpu-nodes.protect.patience": 2})
        expected = [picture(server, client.run(stock(seed))) for seed in (1, 2, 3)]
        assert client.get("/xpu/restart") == {"reason": ""}
        with pytest.raises(urllib.error.HTTPError, match="409"):
            client.post("/xpu/restart", {})

        set_next_fault(server, "sampler", step=2, operator="aten::convolution", kind="hang")
        interrupted, waiting = client.queue(stock(1)), client.queue(stock(2))
        elsewhere = {"prompt": stock(3), "client_id": "a page that is closed", "front": True}
        elsewhere["extra_data"] = {"api_key_comfy_org": "a secret"}
        first = client.post("/prompt", elsewhere)["prompt_id"]
        reason = eventually(lambda: client.get("/xpu/restart")["reason"])
        assert reason == "xpu:0 has given no answer for 6 s to KSampler, where nothing can end it."
        (fault,) = client.get("/xpu/jobs?limit=1")["jobs"][0]["faults"]
        assert fault["hangs"]
        assert fault["node_id"] == "sampler"

        pid = server.process.pid
        assert client.post("/xpu/restart", {}) == {"kept": 3}
        (kept,) = kept_files(server)
        assert "a secret" not in kept.read_text()
        eventually(lambda: client.get("/xpu/restart") == {"reason": ""})
        page = websocket.create_connection(f"ws://{server.address}/ws?clientId={client.id}", timeout=300)
        assert ended(page, 2) == [interrupted, waiting], "each reaches the page that queued it"
        page.close()
        prompts = [interrupted, waiting, first]
        results = [client.wait(prompt_id) for prompt_id in prompts]
        for result, right in zip(results, expected, strict=True):
            assert np.array_equal(picture(server, result), right)
        history = client.get("/history")
        assert [*history] == [interrupted, first, waiting], "the interrupted one first, then as they were queued"
        assert server.process.poll() is None
        assert server.process.pid == pid
        assert kept_files(server) == []
        codes = {found["code"]: found["evidence"] for found in client.get("/xpu/doctor")["findings"]}
        assert codes["no-answer"].startswith("KSampler on xpu:0 (node sampler, ")
        assert np.array_equal(picture(server, client.run(stock(2))), expected[1])
        assert [*client.get("/history")][:3] == [interrupted, first, waiting], "nothing is done twice"


def test_a_card_that_hangs_before_a_prompt_or_within_a_video_costs_a_wait(tmp_path: Path, host: Path) -> None:
    ensure_models("sd15-tiny-unet")
    found = answers("hang_cases", {"devices": ["arc-b580"] * 6}, tmp_path, host, host_environment())
    there = {"lost": True, "on the host": True, "equal": True}
    assert found["a_model_that_another_prompt_left_on_a_card"] == there
    assert found["a_companion_that_follows"] == {**there, "follows": True}
    can = (host / "comfy" / "ldm" / "wan" / "ar_model.py").is_file()
    assert found["an_autoregressive_video"] == ({"left behind": 1, "equal": True} if can else None)
    assert found["work_of_another_size_is_new"] == [1.5, 0.5, 1.5, 1.5, 0.5, 1.5], "three times as long for new work"


def test_a_kept_queue_is_queued_whole_once_or_not_at_all(tmp_path: Path, host: Path) -> None:
    found = answers("restart_cases", {"devices": ["arc-b580"]}, tmp_path, host, host_environment())
    assert found["what_is_damaged_is_refused"] == []
    expected = {"kept": 2, "queued": ["a", "b"], "number": 2, "left": []}
    assert found["kept_prompts_come_in_order_and_once"] == expected
    again = {"alone": ["a"], "both": ["b", "a"], "left": []}
    assert found["a_process_that_ended_before_it_had_queued_them"] == again
    assert found["until_they_are_queued_the_file_is_there"] == [".taken"]
    assert found["a_link_is_not_written_through"] == ["precious", False]
    assert found["a_restart_that_fails_leaves_no_file"] == [[], True]
    ended = "ComfyUI's thread that runs prompts has ended by an error."
    assert found["prompts_wait_for_a_thread_that_has_ended"] == [ended, ""]
    assert found["the_end_of_the_look_out_is_said"] == [False, 1]
