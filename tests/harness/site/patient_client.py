"""A pytest plugin for ComfyUI's own tests: their clients give a server 20 or 90 s to start, which a busy machine
exceeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import requests
import websocket

_START_TIMEOUT_S = 300
_connect = websocket.WebSocket.connect
_get = requests.Session.get


def _once_started(ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            return ask()
        except (ConnectionRefusedError, requests.ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _connect_once_started(self: websocket.WebSocket, url: str, **options: Any) -> None:
    _once_started(lambda: _connect(self, url, **options))


def _get_once_started(self: requests.Session, url: str, **options: Any) -> requests.Response:
    if not str(url).startswith("http://127.0.0.1:"):
        return _get(self, url, **options)
    return _once_started(lambda: _get(self, url, **options))


websocket.WebSocket.connect = _connect_once_started
requests.Session.get = _get_once_started
