"""A ComfyUI server process of a worker's own, and one prompt at a time on it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from ..asked import CHECK
from . import temporary
from .setup import CannotStart, Setup, command

START_SECONDS = 600.0
"""How long a ComfyUI may take to answer: with many packs on a slow disk it takes minutes."""
STOP_SECONDS = 10.0
LOOK_SECONDS = 0.1
LOG_TAIL_CHARACTERS = 500


class ServerLost(Exception):
    """The server ended, or gave no sign of life for too long; one sentence."""


Say = Callable[[str | bytes], None]
"""Is given what the server says."""


class Refused(Exception):
    """The server did not take the prompt; its reasons in one sentence."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__(_refusal(said))
        self.said = said
        """What it answered."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of a prompt."""

    prompt_id: str
    outputs: Mapping[str, Mapping[str, Any]]
    """Node id -> what that node showed."""
    history: Mapping[str, Any]
    """All that the server keeps of the prompt."""
    error: str
    """The failed node's sentence; empty where the prompt succeeded."""
    began_at: float
    """Seconds since the epoch."""
    seconds: float


class Server:
    """A running ComfyUI; `Server.start` makes one. Of use on one event loop."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, port: int) -> None:
        self.process = process
        self.folder = folder
        """Holds its input, output, temp and user folders, and its log; removed when it stops."""
        self.address = f"127.0.0.1:{port}"
        self._session = aiohttp.ClientSession(f"http://{self.address}")
        self._client_id = uuid.uuid4().hex
        self._socket: aiohttp.ClientWebSocketResponse[bool] | None = None

    @classmethod
    async def start(cls, setup: Setup, device: str) -> Server:
        """Starts a ComfyUI on a device and waits until it answers.

        Raises:
            CannotStart: there is none, or it ended or did not answer; the end of its log is in the message.
        """
        temporary.remove_left_behind("worker")
        folder, port = Path(tempfile.mkdtemp(prefix=temporary.prefix("worker"))), _free_port()
        try:
            line, environment = command(setup, device, folder, port)
            with (folder / "server.log").open("wb") as log:
                process = subprocess.Popen(
                    line, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
                )
        except (OSError, CannotStart) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise CannotStart(str(error)) from error
        server = cls(process, folder, port)
        try:
            await server._wait_until_it_answers()
        except BaseException:
            await server.stop()
            raise
        return server

    async def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                await self.get("/system_stats")
                path = f"/ws?clientId={self._client_id}"
                self._socket = await self._session.ws_connect(path, max_msg_size=0)
                return
            except aiohttp.ClientError:
                await asyncio.sleep(LOOK_SECONDS)
        raise CannotStart(f"ComfyUI did not start, its log ends: {self.log_tail()}")

    def log_tail(self) -> str:
        text = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")
        return text[-LOG_TAIL_CHARACTERS:].strip()

    async def get(self, path: str) -> Any:
        """What the server answers to a GET, from its JSON.

        Raises:
            aiohttp.ClientError: it does not answer, or not with success.
        """
        async with self._session.get(path, raise_for_status=True) as answer:
            return await answer.json()

    async def interrupt(self, prompt_id: str) -> None:
        """Has the server end a prompt that it runs.

        Raises:
            aiohttp.ClientError: it does not answer.
        """
        await self._session.post("/interrupt", json={"prompt_id": prompt_id}, raise_for_status=True)

    async def run(
        self,
        prompt: Mapping[str, Any],
        *,
        silence_seconds: float,
        extra: Mapping[str, Any] | None = None,
        say: Say | None = None,
    ) -> Answer:
        """Runs one prompt to its end.

        Args:
            silence_seconds: how long the server may say nothing before it is taken for hanging.
            extra: what else the server is told of it.
            say: is given what the server says meanwhile, first its answer to the prompt as an event "accepted".

        Raises:
            Refused: the prompt is not valid here.
            ServerLost: the server ended or hangs.
        """
        assert self._socket is not None, "only a server that has started is handed out"
        began_at, started = time.time(), time.monotonic()
        try:
            accepted = await self._queue({**(extra or {}), "prompt": prompt})
            prompt_id = str(accepted["prompt_id"])
            if say is not None:
                say(json.dumps({"type": "accepted", "data": accepted}))
            while True:
                message = await self._socket.receive(silence_seconds)
                if say is not None and message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                    say(message.data)
                if message.type is aiohttp.WSMsgType.BINARY:  # a preview picture
                    continue
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise ServerLost(f"ComfyUI ended in the middle of a prompt, its log ends: {self.log_tail()}")
                event = json.loads(message.data)
                kind, data = event["type"], event["data"]
                # Sent when the prompt is in the history, unlike those before.
                if kind == "executing" and data["node"] is None and data.get("prompt_id") == prompt_id:
                    seconds = time.monotonic() - started
                    break
            history = (await self.get(f"/history/{prompt_id}"))[prompt_id]
        except asyncio.TimeoutError:
            raise ServerLost(f"ComfyUI gave no sign of life for {silence_seconds:.0f} s.") from None
        except aiohttp.ClientError as error:
            raise ServerLost(f"ComfyUI ended in the middle of a prompt ({error}).") from error
        return Answer(prompt_id, history["outputs"], history, _error(history), began_at, seconds)

    async def check(self, body: Mapping[str, Any]) -> None:
        """Has the server look whether it would take a prompt, also while it runs another.

        Raises:
            Refused: it would not.
            aiohttp.ClientError: it does not answer.
        """
        await self._post(CHECK, body)

    async def _queue(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._post("/prompt", {**body, "client_id": self._client_id})

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        async with self._session.post(path, json=body) as answer:
            if answer.status >= 500:  # its checks failed themselves
                raise Refused({"error": {"type": "invalid_prompt", "message": "ComfyUI cannot check this prompt"}})
            said: dict[str, Any] = await answer.json()
            if answer.status != 200:
                raise Refused(said)
            return said

    async def stop(self) -> None:
        """Ends the process, by force where it does not end by itself, and removes its folder."""
        await self._session.close()
        self.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
        self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _error(history: Mapping[str, Any]) -> str:
    status = history.get("status") or {}
    for kind, data in status.get("messages") or ():
        if kind == "execution_error":
            return f"{data['node_type']} ({data['node_id']}): {str(data['exception_message']).strip()}"
        if kind == "execution_interrupted":
            return "the prompt was interrupted"
    return "" if status.get("status_str") == "success" else "ComfyUI says that it failed, and not why"


def _refusal(said: Mapping[str, Any]) -> str:
    """The reasons of a refused prompt: of each node, or of the whole."""
    reasons = [
        f"{node['class_type']} ({name}): {error['message']}: {error['details']}"
        for name, node in (said.get("node_errors") or {}).items()
        for error in node["errors"]
    ]
    return "; ".join(reasons) or str((said.get("error") or {}).get("message", said))
