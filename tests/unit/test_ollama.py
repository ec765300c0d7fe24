"""XPUOllamaPrompt's client against a server that speaks Ollama's published API, well and badly."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.harness.ollama_server import MODEL, OllamaServer, endless, part, running_ollama
from xpu_utils.ollama import client as ollama
from xpu_utils.ollama.client import ModelMenu, OllamaError, Question, allowed_hosts, ask, list_models, shares_device

QUESTION = Question(
    model=MODEL,
    instruction="Make it vivid.",
    text="a cat",
    seed=7,
    temperature=0.5,
    max_tokens=64,
    keep_alive_s=300,
    time_limit_s=10.0,
)


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with running_ollama() as state:
        yield state


def put(
    server: OllamaServer,
    question: Question = QUESTION,
    *,
    environ: dict[str, str] | None = None,
    on_text: Callable[[str, int], None] = lambda text, pieces: None,
    check_stop: Callable[[], None] = lambda: None,
    unload_timeout_s: float = 10.0,
) -> str:
    environ = {"XPU_NODES_OLLAMA_HOSTS": server.url, "XPU_NODES_OLLAMA_SHARES_DEVICE": "0"} | (environ or {})
    given = {"on_text": on_text, "check_stop": check_stop, "unload_timeout_s": unload_timeout_s}
    return ask(question, environ=environ, **given)  # type: ignore[arg-type]


def test_the_request_carries_every_setting_of_the_node(server: OllamaServer) -> None:
    assert put(server) == "a vivid cat"
    (asked,) = server.asked
    assert (asked.model, asked.prompt, asked.system) == (MODEL, "a cat", "Make it vivid.")
    assert (asked.stream, asked.keep_alive) == (True, 300)
    assert asked.options is not None
    assert {name: asked.options[name] for name in ("seed", "temperature", "num_predict")} == {
        "seed": 7,
        "temperature": 0.5,
        "num_predict": 64,
    }


def test_progress_shows_the_answer_as_it_grows(server: OllamaServer) -> None:
    seen: list[tuple[str, int]] = []
    put(server, on_text=lambda text, pieces: seen.append((text, pieces)))
    assert seen == [("a vivid ", 1), ("a vivid cat", 2), ("a vivid cat", 3)]


def test_a_model_that_shares_the_device_is_gone_before_the_answer_is_handed_on(server: OllamaServer) -> None:
    server.still_loaded = 2
    put(server, environ={"XPU_NODES_OLLAMA_SHARES_DEVICE": "1"})
    assert server.asked[0].keep_alive == 0
    assert server.paths.count("/api/ps") == 3


def test_an_answer_is_not_lost_when_the_server_fails_afterwards(
    server: OllamaServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.ps_body = b"not json"
    assert put(server, environ={"XPU_NODES_OLLAMA_SHARES_DEVICE": "1"}) == "a vivid cat"
    assert "sampling may lack memory" in caplog.text


@pytest.mark.parametrize("hanging", [{"ps_delay_s": 3.0}, {"still_loaded": 1000}])
def test_the_wait_for_unloading_ends_by_itself(
    server: OllamaServer, caplog: pytest.LogCaptureFixture, hanging: dict[str, float]
) -> None:
    server.__dict__.update(hanging)
    started = time.monotonic()
    assert put(server, environ={"XPU_NODES_OLLAMA_SHARES_DEVICE": "1"}, unload_timeout_s=0.5) == "a vivid cat"
    assert time.monotonic() - started < 2.5
    assert "sampling may lack memory: the server did not show within 0.5 s" in caplog.text


def test_the_stop_button_ends_the_wait_for_unloading(server: OllamaServer) -> None:
    def check_stop() -> None:
        if "/api/ps" in server.paths:
            raise InterruptedError

    server.ps_delay_s = 3.0
    started = time.monotonic()
    with pytest.raises(InterruptedError):
        put(server, environ={"XPU_NODES_OLLAMA_SHARES_DEVICE": "1"}, check_stop=check_stop)
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    ("host", "setting", "shared"),
    [
        ("http://127.0.0.1:11434", "", True),
        ("http://localhost:11434", "", True),
        ("http://[::1]:11434", "", True),
        ("http://gpu-box:11434", "", False),
        ("http://192.168.1.5:11434", "", False),
        ("http://192.168.1.5:11434", "1", True),
        ("http://127.0.0.1:11434", "0", False),
    ],
)
def test_a_server_on_this_machine_shares_the_device_unless_told_otherwise(
    host: str, setting: str, shared: bool
) -> None:
    assert shares_device(host, {"XPU_NODES_OLLAMA_SHARES_DEVICE": setting}) is shared


def test_hosts_come_from_the_environment_only() -> None:
    assert allowed_hosts({}) == ("http://127.0.0.1:11434",)
    assert allowed_hosts({"XPU_NODES_OLLAMA_HOSTS": " http://a:1/ , https://b "}) == ("http://a:1", "https://b")
    # What the official client would fall back to is not a permission.
    assert allowed_hosts({"OLLAMA_HOST": "http://elsewhere:1"}) == ("http://127.0.0.1:11434",)


@pytest.mark.parametrize(
    "entry",
    [
        "gpu-box:11434",
        "file:///etc/passwd",
        "http://a:1/path",
        "http://",
        "http://a:port",
        "http://a:99999",
        "http://a:0",
        "http://[bad",
        "http://[::::]:1",
        "http://\u2460:1",
        "http://a?x=1",
        "http://a#x",
        "http://user@a",
    ],
)
def test_an_entry_that_is_no_address_is_named(entry: str) -> None:
    with pytest.raises(OllamaError, match=r"XPU_NODES_OLLAMA_HOSTS: .* is not an address"):
        list_models(allowed_hosts({"XPU_NODES_OLLAMA_HOSTS": entry}))
    assert ModelMenu(wait_s=5.0).names({"XPU_NODES_OLLAMA_HOSTS": entry}) == ()


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(OllamaError, match=r"//\.\.\.@gpu-box") as caught:
        allowed_hosts({"XPU_NODES_OLLAMA_HOSTS": "http://ann:secret@gpu-box:1"})
    assert "secret" not in str(caught.value)


def test_the_first_server_that_has_the_model_is_asked(server: OllamaServer) -> None:
    hosts = f"http://127.0.0.1:9,{server.url}"
    assert put(server, environ={"XPU_NODES_OLLAMA_HOSTS": hosts}) == "a vivid cat"
    assert list_models(("http://127.0.0.1:9", server.url)) == {MODEL: server.url}


def test_a_model_name_without_tag_finds_the_latest(server: OllamaServer) -> None:
    server.models = ["llava:latest"]
    assert put(server, replace(QUESTION, model="llava")) == "a vivid cat"


def test_a_redirect_is_not_followed(server: OllamaServer) -> None:
    server.status, server.location = 307, f"{server.url}/elsewhere"
    with pytest.raises(OllamaError, match="refused"):
        put(server)
    assert server.paths == ["/api/tags", "/api/generate"]


def test_proxies_of_the_environment_are_not_used(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert put(server) == "a vivid cat"


def test_cloud_models_are_refused_because_ollama_would_call_another_host(server: OllamaServer) -> None:
    with pytest.raises(OllamaError, match=r"ollama\.com"):
        put(server, replace(QUESTION, model="gpt-oss:120b-cloud"))
    assert server.asked == []


def test_a_missing_model_is_named_with_the_command_that_gets_it(server: OllamaServer) -> None:
    with pytest.raises(OllamaError, match="ollama pull llama9"):
        put(server, replace(QUESTION, model="llama9"))
    assert server.asked == []


def test_a_server_that_is_away_is_named(server: OllamaServer) -> None:
    with pytest.raises(OllamaError, match=r"No Ollama server at http://127\.0\.0\.1:9;"):
        put(server, environ={"XPU_NODES_OLLAMA_HOSTS": "http://127.0.0.1:9"})


@pytest.mark.parametrize("pause_s", [0.02, 30.0])
def test_an_answer_that_takes_too_long_ends_at_the_time_limit(server: OllamaServer, pause_s: float) -> None:
    server.body = endless(part("word "), pause_s)
    with pytest.raises(OllamaError, match=r"time limit|raise the time limit"):
        put(server, replace(QUESTION, time_limit_s=0.6))


def test_a_server_that_never_lists_ends_at_the_time_limit(server: OllamaServer) -> None:
    server.list_delay_s = 2.0
    with pytest.raises(OllamaError, match="time limit"):
        put(server, replace(QUESTION, time_limit_s=0.4))


def test_the_stop_button_ends_the_request_and_closes_the_connection(server: OllamaServer) -> None:
    class Stopped(Exception):
        pass

    server.body = endless(part("word "), 0.01)
    pressed = threading.Event()

    def check_stop() -> None:
        if pressed.is_set():
            raise Stopped

    with pytest.raises(Stopped):
        put(server, on_text=lambda text, pieces: pressed.set(), check_stop=check_stop)
    assert server.broken.wait(60), "Ollama would have gone on generating"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>hello</html>\n", "does not speak Ollama's API"),
        (b"[1, 2]\n", "does not speak Ollama's API"),
        (b'{"response": ["not", "text"]}\n', "does not speak Ollama's API"),
        (b'{"done": true}\n', "does not speak Ollama's API"),
        (b'{"error": "model runner has crashed"}\n', "model runner has crashed"),
        (part("half"), "before its answer was complete"),
        (b"", "before its answer was complete"),
    ],
)
def test_a_malformed_answer_is_one_sentence(server: OllamaServer, body: bytes, says: str) -> None:
    server.body = lambda: iter([body])
    with pytest.raises(OllamaError, match=says):
        put(server)


@pytest.mark.parametrize("body", [b"not json", b"[]", b'{"models": 3}', b""])
def test_a_malformed_list_is_one_sentence(server: OllamaServer, body: bytes) -> None:
    server.list_body = body
    with pytest.raises(OllamaError, match="does not speak Ollama's API"):
        put(server)


def test_a_failing_server_is_quoted(server: OllamaServer) -> None:
    server.status = 500
    server.body = lambda: iter([b'{"error": "out of memory"}'])
    with pytest.raises(OllamaError, match="out of memory"):
        put(server)


@pytest.mark.parametrize("chunk", [part("x" * 60_000), b"x" * 60_000])
def test_a_huge_answer_is_cut_off(server: OllamaServer, chunk: bytes) -> None:
    server.body = endless(chunk)
    with pytest.raises(OllamaError, match="more than 4194304 bytes"):
        put(server)
    assert server.broken.wait(60)


def test_a_huge_list_is_cut_off(server: OllamaServer) -> None:
    server.list_body = b" " * 5_000_000
    with pytest.raises(OllamaError, match="more than 4194304 bytes"):
        put(server)


def test_a_missing_client_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ollama", None)
    with pytest.raises(OllamaError, match="pip install ollama"):
        list_models(("http://127.0.0.1:9",))


def test_the_menu_asks_once_and_then_remembers(server: OllamaServer) -> None:
    menu = ModelMenu(ttl_s=60.0, wait_s=5.0)
    environ = {"XPU_NODES_OLLAMA_HOSTS": server.url}
    assert menu.names(environ) == (MODEL,)
    assert menu.names(environ) == (MODEL,)
    assert server.paths == ["/api/tags"]


def test_the_menu_does_not_wait_for_a_slow_server(server: OllamaServer) -> None:
    server.list_delay_s = 0.5
    menu = ModelMenu(ttl_s=60.0, wait_s=0.01)
    environ = {"XPU_NODES_OLLAMA_HOSTS": server.url}
    assert menu.names(environ) == ()
    deadline = time.monotonic() + 5
    while not menu.names(environ) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert menu.names(environ) == (MODEL,)


def test_the_menu_is_empty_without_a_server() -> None:
    assert ModelMenu(wait_s=5.0).names({"XPU_NODES_OLLAMA_HOSTS": "http://127.0.0.1:9"}) == ()


def test_every_wait_is_bounded() -> None:
    assert max(ollama.LIST_TIMEOUT_S, ollama.UNLOAD_TIMEOUT_S) <= 10
