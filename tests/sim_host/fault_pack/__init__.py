"""A custom node pack for the simulated server only: sets a fault in the thread that reaches a stage of a prompt.

A client that waits for the stage's event would set it while the server goes on, and sometimes too late.
"""

from __future__ import annotations

from aiohttp import web
from server import PromptServer

from tests.xpu_sim import Fault, current

NODE_CLASS_MAPPINGS = {}

_waiting = {}
"""Event, node, step and fault of the one that is to be set next; empty where none is."""


@PromptServer.instance.routes.post("/fault_pack/next")
async def next_fault(request):
    """Notes which fault to set when the server sends which event."""
    _waiting.clear()
    _waiting.update(await request.json())
    return web.json_response({})


def _watch(send):
    def send_sync(event, data, sid=None):
        if _reached(event, data):
            fault = Fault(**_waiting["fault"])
            _waiting.clear()
            current().set_faults([fault])
        return send(event, data, sid)

    return send_sync


def _reached(event, data):
    return (
        bool(_waiting)
        and event == _waiting["event"]
        and data.get("node") == _waiting["node"]
        and data.get("value", 0) == _waiting["step"]
    )


PromptServer.instance.send_sync = _watch(PromptServer.instance.send_sync)
