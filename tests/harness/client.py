"""The headless side of ComfyUI: queue a workflow over HTTP, follow it over the WebSocket."""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

import websocket

from .workflows import TRIFLE

Event = tuple[float, str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one prompt."""

    prompt_id: str
    outputs: dict[str, Any]
    """Node id -> the UI output of that node."""
    events: tuple[Event, ...]
    """(seconds since queued, type, data) of every WebSocket event."""
    error: dict[str, Any] | None = None
    """The `execution_error` data, or the validation answer, of a failed prompt."""
    interrupted: bool = False

    @property
    def message(self) -> str:
        """The error's sentence; empty where the prompt succeeded."""
        if self.error is None:
            return ""
        return str(self.error.get("exception_message") or json.dumps(self.error))


ANSWER_S = 300
"""Within which a server answers that does not hang, however busy the machine is."""


class Client:
    """Talks to one ComfyUI server."""

    def __init__(self, address: str, log: Callable[[], str] = lambda: "not known") -> None:
        self.address = address
        self._log = log
        self.id = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=ANSWER_S) as answer:
            return json.load(answer)

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=ANSWER_S) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: object) -> Any:
        """Posts JSON.

        Raises:
            urllib.error.HTTPError: the server refused it; the body is JSON as well.
        """
        request = urllib.request.Request(
            f"http://{self.address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def queue(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queues a prompt, with the editor's workflow to be saved beside it, and returns its id."""
        body: dict[str, Any] = {"prompt": prompt, "client_id": self.id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        return str(self.post("/prompt", body)["prompt_id"])

    def run(
        self,
        prompt: dict[str, Any],
        *,
        workflow: dict[str, Any] | None = None,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        timeout_s: float = 300,
    ) -> Result:
        """Queues a prompt and waits for its end; see `queue`.

        Raises:
            TimeoutError: it did not end in time.
        """
        socket = websocket.create_connection(f"ws://{self.address}/ws?clientId={self.id}", timeout=timeout_s)
        try:
            started = time.monotonic()
            try:
                prompt_id = self.queue(prompt, workflow)
            except urllib.error.HTTPError as refusal:
                return Result("", {}, (), error=json.load(refusal))
            events: list[Event] = []
            while time.monotonic() - started < timeout_s:
                try:
                    frame = socket.recv()
                except websocket.WebSocketTimeoutException:
                    break
                if isinstance(frame, bytes):  # a preview picture
                    continue
                message = json.loads(frame)
                kind, data = message["type"], message["data"]
                if data.get("prompt_id", prompt_id) != prompt_id:
                    continue
                events.append((time.monotonic() - started, kind, data))
                if on_event:
                    on_event(kind, data)
                if kind in ("execution_success", "execution_error", "execution_interrupted"):
                    return self._result(prompt_id, kind, data, tuple(events))
            raise TimeoutError(
                f"The prompt did not end within {timeout_s:.0f} s; the server's log ends:\n{self._log()[-3000:]}"
            )
        finally:
            socket.close()

    def free(self) -> None:
        """Has models unloaded and answers forgotten before the next prompt.

        The server does so between prompts, also after one that it has begun meanwhile.
        """
        self.post("/free", {"unload_models": True, "free_memory": True})
        self.run(TRIFLE)

    def wait(self, prompt_id: str, timeout_s: float = 600) -> Result:
        """Waits for the end of a prompt that was queued.

        Raises:
            TimeoutError: it did not end in time.
        """
        messages = self._history(prompt_id, timeout_s)["status"]["messages"]
        kind, data = messages[-1]
        return self._result(prompt_id, kind, data, ())

    def _result(self, prompt_id: str, kind: str, data: dict[str, Any], events: tuple[Event, ...]) -> Result:
        return Result(
            prompt_id,
            outputs=self._history(prompt_id).get("outputs", {}),
            events=events,
            error=data if kind == "execution_error" else None,
            interrupted=kind == "execution_interrupted",
        )

    def _history(self, prompt_id: str, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """The prompt's history entry, which the server writes a moment after it has sent the last event."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return dict(history[prompt_id])
            time.sleep(0.05)
        raise TimeoutError(f"The server has no history of prompt {prompt_id}.")

    def image(self, result: Result, node_id: str, index: int = 0) -> bytes:
        """The PNG bytes of a picture that a SaveImage or PreviewImage node wrote."""
        entry = result.outputs[node_id]["images"][index]
        query = f"filename={entry['filename']}&subfolder={entry['subfolder']}&type={entry['type']}"
        return self.get_bytes(f"/view?{query}")
