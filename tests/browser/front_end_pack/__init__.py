"""A pack for tests: a page whose cookie names a front end gets the files of that one, in place of the host's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aiohttp import web
from server import PromptServer

FRONT_ENDS = Path(os.environ["FRONT_ENDS"])
NODE_CLASS_MAPPINGS: dict[str, Any] = {}


@web.middleware
async def serve_named(request: web.Request, handler: Any) -> web.StreamResponse:
    if version := request.cookies.get("front-end"):
        folder = FRONT_ENDS / version / "comfyui_frontend_package" / "static"
        file = (folder / (request.path.lstrip("/") or "index.html")).resolve()
        if file.is_relative_to(folder.resolve()) and file.is_file():
            return web.FileResponse(file)
    response: web.StreamResponse = await handler(request)
    return response


PromptServer.instance.app.middlewares.append(serve_named)
