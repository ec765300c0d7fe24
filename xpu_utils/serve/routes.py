"""ComfyUI's own routes for one address with many workers, described in docs/serve-openapi.yaml.

Nothing from a request is used as a path, a command or an address: names of files are checked in `store`.
"""

from __future__ import annotations

import asyncio
import mimetypes
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from . import masks
from .access import guarding
from .clients import Clients, event
from .gateway import Gateway
from .pool import Pool
from .requests import ids, parsed_object, refused, wanted, whole_number
from .store import Store

LARGEST_BODY_BYTES = 8 << 20
"""Of JSON: prompts carry the workflow that they came from."""
INFO_SECONDS = 10.0
"""How long what the nodes are is repeated instead of asked for again: it is megabytes."""
_SHOWN = re.compile(r"(image/(?!svg)|video/|audio/)")
"""Types that a browser shows without running anything in them."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """Answers the requests of one address."""

    def __init__(self, gateway: Gateway, pool: Pool, store: Store, clients: Clients, *, upload_bytes: int) -> None:
        self._gateway = gateway
        self._pool = pool
        self._store = store
        self._clients = clients
        self._features = {"supports_preview_metadata": False, "max_upload_size": upload_bytes}
        self._info: tuple[float, dict[str, Any]] = (float("-inf"), {})
        self._asking = asyncio.Lock()

    def application(self, token: str) -> web.Application:
        """The whole address; every route also below /api, where ComfyUI's pages and some clients ask."""
        application = web.Application(middlewares=[guarding(token)], client_max_size=self._features["max_upload_size"])
        get: dict[str, Handler] = {
            "/prompt": self.status,
            "/queue": self.queue,
            "/history": self.history,
            "/view": self.view,
            "/history/{prompt_id}": self.entry,
            "/object_info": self.nodes,
            "/object_info/{node}": self.node,
            "/system_stats": self.system,
            "/features": self.features,
            "/ws": self.listen,
            "/models": self.folders,
            "/models/{folder}": self.models,
            "/embeddings": self.embeddings,
        }
        post: dict[str, Handler] = {
            "/prompt": self.submit,
            "/queue": self.change_queue,
            "/history": self.change_history,
            "/interrupt": self.interrupt,
            "/upload/image": self.upload,
            "/upload/mask": self.upload_mask,
        }
        for prefix in ("", "/api"):
            for path, handler in get.items():
                application.router.add_get(prefix + path, handler, expect_handler=_expect)
            for path, handler in post.items():
                application.router.add_post(prefix + path, handler, expect_handler=_expect)
        application.router.add_route("*", "/{other:.*}", _other, expect_handler=_expect)
        return application

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(self._gateway.status())

    async def submit(self, request: web.Request) -> web.Response:
        return web.json_response(await self._gateway.submit(wanted(await _body(request))))

    async def queue(self, request: web.Request) -> web.Response:
        return web.json_response(text=self._gateway.queue())

    async def change_queue(self, request: web.Request) -> web.Response:
        await self._gateway.take_out(_named(parsed_object(await _body(request))))
        return web.Response()

    async def history(self, request: web.Request) -> web.Response:
        most = whole_number(request.query.get("max_items"), "max_items", least=0)
        offset = whole_number(request.query.get("offset"), "offset", least=-1)
        return web.json_response(text=self._gateway.history.listed(most=most, offset=offset))

    async def entry(self, request: web.Request) -> web.Response:
        return web.json_response(text=self._gateway.history.entry(request.match_info["prompt_id"]))

    async def change_history(self, request: web.Request) -> web.Response:
        self._gateway.history.forget(_named(parsed_object(await _body(request))))
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        body = await _body(request)
        prompt_id = parsed_object(body).get("prompt_id") if body else None
        if not (prompt_id is None or isinstance(prompt_id, str)):
            raise refused(400, "invalid_request", "prompt_id must be a text.")
        await self._gateway.interrupt(prompt_id)
        return web.Response()

    async def view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if "filename" not in query:
            raise refused(404, "not_found", "filename is missing.")
        file = self._store.find(query.get("type", "output"), query.get("subfolder", ""), query["filename"])
        kind = mimetypes.guess_type(file.name)[0] or ""
        shown = _SHOWN.match(kind)
        name = re.sub(r"[^\w .()-]", "_", file.name, flags=re.ASCII)
        headers = {
            "Content-Type": kind if shown else "application/octet-stream",
            "Content-Disposition": f'{"inline" if shown else "attachment"}; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
        }
        return web.FileResponse(file, headers=headers)

    async def upload(self, request: web.Request) -> web.Response:
        form = await _form(request)
        return await self._keep(form, _content(form))

    async def upload_mask(self, request: web.Request) -> web.Response:
        form = await _form(request)
        reference = parsed_object(_text(form, "original_ref", "").encode(errors="replace"))
        kind, subfolder, name = (reference.get(key, "") for key in ("type", "subfolder", "filename"))
        if not all(isinstance(part, str) for part in (kind, subfolder, name)):
            raise refused(400, "invalid_request", "original_ref must name a file.")
        original = self._store.find(kind or "output", subfolder, name)
        content = await asyncio.to_thread(masks.with_mask, original, _content(form))
        return await self._keep(form, content)

    async def nodes(self, request: web.Request) -> web.Response:
        return web.json_response(await self._node_info())

    async def node(self, request: web.Request) -> web.Response:
        name = request.match_info["node"]
        info = await self._node_info()
        return web.json_response({name: info[name]} if name in info else {})

    async def system(self, request: web.Request) -> web.Response:
        """The first worker's system with the devices of all."""
        answers = await asyncio.gather(*(self._pool.ask(member, "/system_stats") for member in self._pool.ready()))
        known = [answer for answer in answers if answer]
        if not known:
            raise self._no_worker()
        system = {**known[0]["system"], "argv": []}
        return web.json_response({"system": system, "devices": [one for each in known for one in each["devices"]]})

    async def features(self, request: web.Request) -> web.Response:
        return web.json_response(self._features)

    async def folders(self, request: web.Request) -> web.Response:
        return web.json_response(sorted(self._models()))

    async def models(self, request: web.Request) -> web.Response:
        folder = self._models().get(request.match_info["folder"])
        if folder is None:
            raise refused(404, "not_found", "There is no such folder of models.")
        return web.json_response(sorted(folder))

    async def embeddings(self, request: web.Request) -> web.Response:
        return web.json_response(sorted(name.rpartition(".")[0] for name in self._models().get("embeddings", ())))

    async def listen(self, request: web.Request) -> web.StreamResponse:
        def greeting(client_id: str) -> str:
            return event("status", {"status": self._gateway.status(), "sid": client_id})

        return await self._clients.serve(request, greeting, self._features)

    async def _keep(self, form: Any, content: bytes) -> web.Response:
        kind, subfolder = _text(form, "type", "input"), _text(form, "subfolder", "")
        overwrite = _text(form, "overwrite", "") in ("true", "1")
        wanted_name = form["image"].filename
        try:
            name = await asyncio.to_thread(
                self._store.upload, kind, subfolder, wanted_name, content, overwrite=overwrite
            )
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise refused(400, "invalid_request", "A file is in a folder's place, or a folder in its.") from error
        except OSError as error:
            raise refused(507, "no_room", f"The file cannot be kept: {error.strerror}.") from error
        return web.json_response({"name": name, "subfolder": subfolder, "type": kind})

    async def _node_info(self) -> dict[str, Any]:
        """What a worker's nodes are: all have the same."""
        async with self._asking:
            asked_at, info = self._info
            if time.monotonic() - asked_at > INFO_SECONDS:
                for member in self._pool.ready():
                    if info := await self._pool.ask(member, "/object_info"):
                        break
                else:
                    raise self._no_worker()
                self._info = (time.monotonic(), info)
            return info

    def _models(self) -> dict[str, set[str]]:
        """The folders of models of all workers."""
        found: dict[str, set[str]] = {}
        for member in self._pool.ready():
            for folder, names in member.ready.models.items() if member.ready else ():
                found.setdefault(folder, set()).update(names)
        return found

    def _no_worker(self) -> Exception:
        problem = "Those that there are do not answer." if self._pool.ready() else self._pool.problem
        return refused(503, "no_worker", "No worker can be asked", problem)


async def _expect(request: web.Request) -> None:
    """As aiohttp's own, which fails at bytes that are no text (3.14)."""
    if request.headers["Expect"].lower() != "100-continue":
        raise web.HTTPExpectationFailed
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # the answer has not begun


async def _other(request: web.Request) -> web.Response:
    """Another method of a route that there is, or none."""
    others = [resource for resource in request.app.router.resources() if "other" not in resource.canonical]
    allowed = {method for resource in others for method in (await resource.resolve(request))[1]}
    raise web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound


async def _body(request: web.Request) -> bytes:
    body = bytearray()
    async for part in request.content.iter_any():
        body += part
        if len(body) > LARGEST_BODY_BYTES:
            raise refused(413, "too_large", f"The body may have {LARGEST_BODY_BYTES >> 20} MiB.")
    return bytes(body)


def _named(body: dict[str, Any]) -> list[str] | None:
    """The prompts that ComfyUI's bodies of /queue and /history name; None for all."""
    named = ids(body["delete"]) if "delete" in body else []
    return None if body.get("clear") else named


async def _form(request: web.Request) -> Any:
    if request.content_type != "multipart/form-data":
        raise refused(400, "invalid_request", "The body must be multipart/form-data.")
    try:
        return await request.post()
    except (ValueError, RuntimeError, AssertionError, LookupError, HttpProcessingError) as error:  # whatever is wrong
        raise refused(400, "invalid_request", "The body is no form", str(error)) from error


def _content(form: Any) -> bytes:
    image = form.get("image")
    if not isinstance(image, web.FileField):
        raise refused(400, "invalid_request", "The form must have a file called image.")
    return image.file.read()


def _text(form: Any, name: str, default: str) -> str:
    value = form.get(name, default)
    if not isinstance(value, str):
        raise refused(400, "invalid_request", f"{name} must be a text.")
    return value
