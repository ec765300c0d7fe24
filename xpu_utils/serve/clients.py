"""Clients that listen, by the id that each chose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import WSMsgType, web

BEHIND_LIMIT = 1000
"""Messages that wait for a client; one that is further behind is let go."""
HEARTBEAT_SECONDS = 30.0
LARGEST_MESSAGE_BYTES = 64 << 10
"""Clients say next to nothing."""

Message = str | bytes


class Clients:
    """Those that are connected. Of one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Queue[Message | None]] = {}

    def send(self, client_id: str, message: Message) -> None:
        """Sends a client something, if it is there."""
        waiting = self._waiting.get(client_id)
        if waiting is None:
            return
        if waiting.qsize() >= BEHIND_LIMIT:
            del self._waiting[client_id]
            waiting.put_nowait(None)
            return
        waiting.put_nowait(message)

    def send_all(self, message: Message) -> None:
        for client_id in list(self._waiting):
            self.send(client_id, message)

    async def serve(
        self, request: web.Request, greeting: Callable[[str], str], features: Mapping[str, Any]
    ) -> web.WebSocketResponse:
        """Serves a connection until it ends; a client that connects again takes the place of its former connection.

        Args:
            greeting: from the client's id to what it is sent first.
            features: what one that asks is told that is understood here.
        """
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        connection = web.WebSocketResponse(heartbeat=HEARTBEAT_SECONDS, max_msg_size=LARGEST_MESSAGE_BYTES)
        await connection.prepare(request)
        waiting: asyncio.Queue[Message | None] = asyncio.Queue()
        self._waiting[client_id] = waiting
        waiting.put_nowait(greeting(client_id))
        sender = asyncio.create_task(_send(connection, waiting))
        try:
            async for message in connection:
                if message.type is WSMsgType.TEXT and _asks_for_features(message.data):
                    self.send(client_id, event("feature_flags", features))
        finally:
            sender.cancel()
            if self._waiting.get(client_id) is waiting:
                del self._waiting[client_id]
        return connection


def event(kind: str, data: Mapping[str, Any]) -> str:
    """A message in ComfyUI's form."""
    return json.dumps({"type": kind, "data": data})


async def _send(connection: web.WebSocketResponse, waiting: asyncio.Queue[Message | None]) -> None:
    with contextlib.suppress(ConnectionError):  # it has gone
        while (message := await waiting.get()) is not None:
            if isinstance(message, str):
                await connection.send_str(message)
            else:
                await connection.send_bytes(message)
        await connection.close()


def _asks_for_features(text: str) -> bool:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("type") == "feature_flags"
