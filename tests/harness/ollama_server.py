"""A server that speaks Ollama's published API, well or badly, as a test asks.

What it receives and what it answers is checked against the official client's own types.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ollama import GenerateResponse, ListResponse, ProcessResponse
from ollama._types import GenerateRequest

MODEL = "qwen3:4b"


def part(text: str, *, done: bool = False) -> bytes:
    """One line of a streamed answer, as the official client would read it."""
    answer = GenerateResponse(model=MODEL, created_at="2026-11-22T10:00:00Z", response=text, done=done)
    return answer.model_dump_json(exclude_none=True).encode() + b"\n"


@dataclass
class OllamaServer:
    """What the server does with ``/api/generate`` and what it was asked."""

    url: str = ""
    models: list[str] = field(default_factory=lambda: [MODEL, "gpt-oss:120b-cloud"])
    body: Callable[[], Iterator[bytes]] = lambda: iter([part("a vivid "), part("cat"), part("", done=True)])
    status: int = 200
    location: str = ""
    list_body: bytes | None = None
    list_delay_s: float = 0.0
    still_loaded: int = 0
    ps_delay_s: float = 0.0
    ps_body: bytes | None = None
    asked: list[GenerateRequest] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    broken: threading.Event = field(default_factory=threading.Event)

    def listing(self) -> bytes:
        time.sleep(self.list_delay_s)
        if self.list_body is not None:
            return self.list_body
        models = [ListResponse.Model(model=name) for name in self.models]
        return ListResponse(models=models).model_dump_json().encode()

    def running(self) -> bytes:
        time.sleep(self.ps_delay_s)
        if self.ps_body is not None:
            return self.ps_body
        names = [MODEL] if self.still_loaded > 0 else []
        self.still_loaded -= 1
        running = [ProcessResponse.Model(model=name) for name in names]
        return ProcessResponse(models=running).model_dump_json().encode()


def _handler(state: OllamaServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            state.paths.append(self.path)
            self._send({"/api/tags": state.listing, "/api/ps": state.running}[self.path]())

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            state.paths.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.asked.append(GenerateRequest.model_validate_json(body))
            self.send_response(state.status)
            if state.location:
                self.send_header("Location", state.location)
            self.end_headers()
            try:
                for chunk in state.body():
                    self.wfile.write(chunk)
            except (BrokenPipeError, ConnectionResetError):
                state.broken.set()

    return Handler


@contextlib.contextmanager
def running_ollama() -> Iterator[OllamaServer]:
    """Runs a server on a free port until the block ends."""
    state = OllamaServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()


def endless(chunk: bytes, pause_s: float = 0.0) -> Callable[[], Iterator[bytes]]:
    """A body that repeats a chunk for ever."""

    def body() -> Iterator[bytes]:
        while True:
            yield chunk
            time.sleep(pause_s)

    return body
