"""Whether ComfyUI would take a prompt: what `serve` asks a worker that runs another one, which would queue it."""

from __future__ import annotations

import os
import uuid

import execution
from aiohttp import web
from server import PromptServer

from ...asked import CHECK, WORKER_VARIABLE


def register() -> None:
    """Adds the route to a worker's server, which only its own machine reaches; other servers have it not."""
    if os.environ.get(WORKER_VARIABLE):
        PromptServer.instance.routes.post(CHECK)(_check)


async def _check(request: web.Request) -> web.Response:
    """Answers as `/prompt` does, and queues nothing."""
    server = PromptServer.instance
    data = server.trigger_on_prompt(await request.json())
    prompt = data["prompt"]
    if hasattr(server, "node_replace_manager"):  # renames the nodes of older workflows
        server.node_replace_manager.apply_replacements(prompt)
    targets = data.get("partial_execution_targets")
    valid, error, _, node_errors = await execution.validate_prompt(str(uuid.uuid4()), prompt, targets)
    return web.json_response({"error": error, "node_errors": node_errors}, status=200 if valid else 400)
