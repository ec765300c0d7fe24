"""A pytest plugin for ComfyUI's own tests: their client gives a server 20 s to start, which a busy machine exceeds."""

from __future__ import annotations

import time
from typing import Any

import websocket

_START_TIMEOUT_S = 300
_connect = websocket.WebSocket.connect


def _connect_once_started(self: websocket.WebSocket, url: str, **options: Any) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            return _connect(self, url, **options)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


websocket.WebSocket.connect = _connect_once_started
