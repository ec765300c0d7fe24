"""One address over real workers on simulated XPUs: they come and go with the prompts, and a killed command's go on."""

from __future__ import annotations

import urllib.error
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.harness.client import Client
from tests.harness.many_workers import servers, simulated_comfyui, wait_until
from tests.harness.serving import serving
from tests.harness.workflows import TRIFLE, Workflow, node, text_to_image


def lasting(seconds: float) -> Workflow:
    graph: Workflow = {**TRIFLE, "time": node("TestTakeTime", image=["picture", 0], seconds=seconds)}
    return {**graph, "save": node("SaveImage", images=["time", 0], filename_prefix="a")}


def runs(client: Client, *prompt_ids: str) -> bool:
    """Whether these prompts run, and no others."""
    return {entry[1] for entry in client.get("/queue")["queue_running"]} == {*prompt_ids}


def refused(client: Client, graph: Workflow) -> str:
    """What the answer to a prompt that is not taken says."""
    with pytest.raises(urllib.error.HTTPError) as refusal:
        client.queue(graph)
    return refusal.value.read().decode()


def both_busy(client: Client, comfyui: Path) -> list[str]:
    """Sends two prompts, once there is one worker, and waits until there is a second; answers their ids."""
    wait_until(lambda: len(servers(comfyui)) == 1)
    sent = [client.queue(lasting(900.0 + number)) for number in range(2)]
    wait_until(lambda: runs(client, *sent))
    return sent


def test_workers_come_and_go_with_the_prompts_and_those_of_a_killed_command_go_on(tmp_path: Path) -> None:
    comfyui = simulated_comfyui(tmp_path / "comfyui")
    options = ("--devices", "xpu:0,xpu:1", "--idle", "1")
    with serving(tmp_path, *options, "--most", "2", comfyui=comfyui) as client:
        sent = both_busy(client, comfyui)
        assert "value_not_in_list" in refused(client, text_to_image(checkpoint="nobody-has-it.safetensors"))
        client.post("/interrupt", {})
        sent = both_busy(client, comfyui)
        sent.append(client.queue(lasting(0.0)))
        _command().kill()
        wait_until(lambda: not servers(comfyui))
    with serving(tmp_path, *options, "--most", "1", comfyui=comfyui) as client:
        for prompt_id in sent[:2]:
            wait_until(partial(runs, client, prompt_id))
            client.post("/interrupt", {"prompt_id": prompt_id})
        assert client.wait(sent[2]).error is None
        assert list(client.get("/history")) == sent
    made = [file.parent.name for file in (tmp_path / "out" / "output").rglob("*.png")]
    assert made == [sent[2]]


def _command() -> psutil.Process:
    (command,) = [child for child in psutil.Process().children() if "serve" in child.cmdline()]
    return command
