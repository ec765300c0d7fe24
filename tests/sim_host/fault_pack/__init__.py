"""A custom node pack for the simulated server only: sets faults in the thread that reaches a stage of a prompt.

A client that waits for the stage's event would set them while the server goes on, and sometimes too late. It also
counts the calls of diffusion models.
"""

from __future__ import annotations

import threading

import comfy.model_base
import comfy.utils
import nodes
from aiohttp import web
from comfy_execution.utils import get_executing_context
from server import PromptServer

from tests.xpu_sim import Fault, current

NODE_CLASS_MAPPINGS = {}

_waiting = {}
"""Node, step and faults that are to be set next; empty where there are none."""
_stop_at = []
"""The model call at which the prompt is interrupted, once."""
_calls = [0]


@PromptServer.instance.routes.post("/fault_pack/next")
async def next_faults(request):
    """Notes which faults to set when which node begins, or has done how many of its steps."""
    _waiting.clear()
    _waiting.update(await request.json())
    return web.json_response({})


@PromptServer.instance.routes.post("/fault_pack/interrupt")
async def interrupt(request):
    """Notes at which call of the model, counted from now, the prompt is to be interrupted."""
    _calls[0] = 0
    _stop_at[:] = [(await request.json())["call"]]
    return web.json_response({})


@PromptServer.instance.routes.post("/fault_pack/calls")
async def reset_calls(request):
    """Begins to count anew."""
    _calls[0] = 0
    return web.json_response({})


@PromptServer.instance.routes.get("/fault_pack/calls")
async def calls(request):
    """How often a diffusion model was called, failed calls included."""
    return web.json_response({"calls": _calls[0]})


@PromptServer.instance.routes.get("/fault_pack/threads")
async def threads(request):
    """The names of the threads that are alive."""
    return web.json_response({"threads": [thread.name for thread in threading.enumerate()]})


def _watched(send):
    def send_sync(event, data, sid=None):
        if event == "executing":
            _reach(data.get("node"), 0)
        return send(event, data, sid)

    return send_sync


def _stepped(update_absolute):
    """Every step is seen here, of which newer hosts send the client some."""

    def stepped(self, value, *arguments, **keywords):
        update_absolute(self, value, *arguments, **keywords)
        context = get_executing_context()
        if context is not None:
            _reach(context.node_id, value)

    return stepped


def _reach(node, step):
    if _waiting and (node, step) == (_waiting["node"], _waiting["step"]):
        faults = [Fault(**fault) for fault in _waiting["faults"]]
        _waiting.clear()
        current().set_faults(faults)


def _counted(apply_model):
    def counted(self, *arguments, **keywords):
        _calls[0] += 1
        if _calls[0] in _stop_at:
            _stop_at.clear()
            nodes.interrupt_processing()
        return apply_model(self, *arguments, **keywords)

    return counted


PromptServer.instance.send_sync = _watched(PromptServer.instance.send_sync)
comfy.utils.ProgressBar.update_absolute = _stepped(comfy.utils.ProgressBar.update_absolute)
comfy.model_base.BaseModel.apply_model = _counted(comfy.model_base.BaseModel.apply_model)
