"""XPUOllamaPrompt inside the real ComfyUI server, asking a server that speaks Ollama's API."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tests.harness.ollama_server import MODEL, OllamaServer, endless, part
from tests.harness.server import Server
from tests.harness.workflows import Workflow, node


@pytest.fixture(autouse=True)
def well_behaved(ollama: OllamaServer) -> None:
    ollama.__dict__.update(OllamaServer(url=ollama.url).__dict__)


def graph(**changes: Any) -> Workflow:
    inputs = {
        "model": MODEL,
        "instruction": "Make it vivid.",
        "text": "a cat",
        "seed": 7,
        "temperature": 0.5,
        "max_tokens": 64,
        "keep_alive": 300,
        "time_limit": 20.0,
    }
    return {"ask": node("XPUOllamaPrompt", **inputs | changes), "show": node("PreviewAny", source=["ask", 0])}


@pytest.mark.core
def test_a_graph_gets_the_answer_as_text(server: Server, ollama: OllamaServer) -> None:
    result = server.client.run(graph())
    assert result.message == ""
    assert result.outputs["show"]["text"] == ["a vivid cat"]
    assert ollama.asked[0].prompt == "a cat"
    assert ollama.asked[0].keep_alive == 0, "Ollama on this machine shares the device"


def test_the_model_list_is_the_server_s(server: Server) -> None:
    info = server.client.get("/object_info/XPUOllamaPrompt")["XPUOllamaPrompt"]
    assert MODEL in str(info["input"]["required"]["model"])
    assert "XPU_NODES_OLLAMA_HOSTS" in info["description"]
    assert not any("host" in name or "url" in name for name in info["input"]["required"])


def test_a_model_that_came_after_the_list_still_runs(server: Server, ollama: OllamaServer) -> None:
    server.client.get("/object_info/XPUOllamaPrompt")
    ollama.models = ["just-pulled:latest"]
    result = server.client.run(graph(model="just-pulled", seed=8))
    assert result.message == ""


def test_progress_follows_the_answer(server: Server) -> None:
    result = server.client.run(graph(seed=9))
    values = [data["value"] for _, kind, data in result.events if kind == "progress" and data.get("node") == "ask"]
    assert values
    assert values == sorted(values)


def test_a_server_s_failure_is_the_node_s_message(server: Server, ollama: OllamaServer) -> None:
    ollama.status, ollama.body = 500, lambda: iter([b'{"error": "out of memory"}'])
    assert "out of memory" in server.client.run(graph(seed=10)).message


def test_the_stop_button_stops_ollama(server: Server, ollama: OllamaServer) -> None:
    ollama.body = endless(part("word "), 0.05)

    def stop() -> None:
        while not ollama.asked:
            time.sleep(0.05)
        server.client.post("/interrupt", {})

    threading.Thread(target=stop, daemon=True).start()
    result = server.client.run(graph(seed=11, time_limit=60.0), timeout_s=30)
    assert result.interrupted
    assert ollama.broken.wait(60)
