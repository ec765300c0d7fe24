"""The pack's HTTP routes on ComfyUI's own server, described in docs/openapi.yaml.

Nothing from a request is ever used as a path, a command or a name to look up: queries hold booleans and numbers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from server import PromptServer

from ...doctor.examine import as_data
from ...memory.free import read_memory
from ...memory.listing import as_json
from ...recovery.jobs import JOB_LIMIT, jobs
from ...telemetry.monitor import Monitor
from ..hooks import listed
from ..inventory import explained_inventory, host_inventory
from ..recovery import restart
from .broadcast import INTERVAL_LIMITS_SECONDS, Broadcaster, send_jobs
from .diagnosis import diagnose

DIAGNOSIS_SECONDS = 10.0
"""A diagnosis this young is repeated instead of made again: it may start child processes."""

LARGEST_BODY_BYTES = 1024

ANSWER_SECONDS = 0.5
"""What an answer takes to be sent before the server is no more."""

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Refused(Exception):
    """A request that is answered with an error: status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Routes:
    """Answers the requests; one for each server."""

    def __init__(self, server: PromptServer) -> None:
        self._server = server
        self._worker = ThreadPoolExecutor(max_workers=2, thread_name_prefix="xpu-routes")
        self._broadcaster = Broadcaster(lambda: Monitor(host_inventory().devices, read_memory), server.send_sync)
        self._diagnoses: dict[tuple[bool, bool], tuple[float, list[dict[str, Any]]]] = {}
        self._diagnosing = asyncio.Lock()

    async def devices(self, request: web.Request) -> web.Response:
        _query(request)
        return web.json_response(text=await self._off_loop(lambda: as_json(explained_inventory())))

    async def telemetry(self, request: web.Request) -> web.Response:
        _same_origin(request)  # another site's page shall not keep the drivers busy
        query = _query(request, "interval_seconds")
        if "interval_seconds" in query:
            self._broadcaster.watch(_seconds(query["interval_seconds"]))
        return web.json_response(await self._broadcaster.sample())

    async def doctor(self, request: web.Request) -> web.Response:
        query = _query(request, "kernels", "packs")
        wanted = (_boolean(query, "kernels"), _boolean(query, "packs"))
        if any(wanted):  # costs seconds and starts processes
            _same_origin(request)
        async with self._diagnosing:  # one at a time, however many ask
            made_at, findings = self._diagnoses.get(wanted, (float("-inf"), []))
            if time.monotonic() - made_at > DIAGNOSIS_SECONDS:
                findings = await self._off_loop(lambda: _diagnosis(*wanted))
                self._diagnoses[wanted] = (time.monotonic(), findings)
        return web.json_response({"findings": findings})

    async def hooks(self, request: web.Request) -> web.Response:
        _query(request)
        states = [{"name": hook.name, "state": hook.state.value, "reason": hook.reason} for hook in listed()]
        return web.json_response({"hooks": states})

    async def jobs(self, request: web.Request) -> web.Response:
        limit = _whole_number(_query(request, "limit"), "limit", most=JOB_LIMIT)
        return web.json_response(text=await self._off_loop(lambda: _jobs_text(limit)))

    async def free(self, request: web.Request) -> web.Response:
        """Asks the thread that runs prompts to unload all models: done here, it would pull them from under a job."""
        _same_origin(request)
        _query(request)
        await _empty_object(request)
        queue = self._server.prompt_queue
        queue.set_flag(
            "free_memory", True
        )  # implies "unload_models"; two flags would be two wake-ups, one of them lost
        when = "after the running job" if queue.get_tasks_remaining() else "now"
        return web.json_response({"when": when}, status=202)

    async def why_restart(self, request: web.Request) -> web.Response:
        _query(request)
        return web.json_response({"reason": restart.reason()})

    async def restart(self, request: web.Request) -> web.Response:
        """Has ComfyUI begin anew with its queue, but only where that gets a device back."""
        _same_origin(request)
        _query(request)
        await _empty_object(request)
        if not restart.reason():
            raise Refused(409, "No device is lost and none hangs: there is nothing that a restart would mend.")
        try:
            kept = restart.keep()
        except restart.CannotRestartError as error:
            raise Refused(409, str(error)) from error
        asyncio.get_running_loop().call_later(ANSWER_SECONDS, restart.restart)
        return web.json_response({"kept": kept}, status=202)

    async def _off_loop(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def register() -> None:
    """Adds the routes to ComfyUI's server, and sends it placements and faults."""
    server = PromptServer.instance
    routes = Routes(server)
    for path in ("devices", "telemetry", "doctor", "hooks", "jobs"):
        server.routes.get(f"/xpu/{path}")(_answering(getattr(routes, path)))
    server.routes.post("/xpu/free")(_answering(routes.free))
    server.routes.get("/xpu/restart")(_answering(routes.why_restart))
    server.routes.post("/xpu/restart")(_answering(routes.restart))
    send_jobs(server.send_sync)


def _answering(handler: Handler) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except Refused as refusal:
            return web.json_response({"error": str(refusal)}, status=refusal.status)

    return answer


def _diagnosis(kernels: bool, packs: bool) -> list[dict[str, Any]]:
    machine, findings = diagnose(kernels=kernels, packs=packs)
    return as_data(findings, machine.system)


def _jobs_text(limit: int) -> str:
    entries = [
        {**dataclasses.asdict(job), "seconds": job.seconds, "peak_bytes": job.peak_bytes, "rungs": job.rungs}
        for job in jobs(limit=limit)
    ]
    return json.dumps({"jobs": entries})


def _query(request: web.Request, *known: str) -> dict[str, str]:
    unknown = [name for name in request.query if name not in known]
    repeated = [name for name in known if len(request.query.getall(name, [])) > 1]
    if unknown or repeated:
        raise Refused(400, f"This route takes {' and '.join(known) or 'no query'}, each once.")
    return dict(request.query)


def _boolean(query: dict[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise Refused(400, f"{name} is true or false.")
    return value == "true"


def _whole_number(query: dict[str, str], name: str, *, most: int) -> int:
    """A number from 1 to `most`, which is also what it is where it is not given."""
    text = query.get(name, str(most))
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(most)) else 0
    if not 1 <= value <= most:
        raise Refused(400, f"{name} is a whole number from 1 to {most}.")
    return value


def _seconds(text: str) -> float:
    least, most = INTERVAL_LIMITS_SECONDS
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise Refused(400, f"interval_seconds is a number from {least} to {most}.")
    return value


def _same_origin(request: web.Request) -> None:
    """Refuses what another site's page makes the browser send."""
    origin = request.headers.get("Origin")
    other_site = request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")
    if other_site or (origin is not None and urlsplit(origin).netloc.lower() != request.host.lower()):
        raise Refused(403, "This route answers ComfyUI's own pages only.")


async def _empty_object(request: web.Request) -> None:
    """The body is {} in JSON: a form of another site cannot send that type unasked."""
    if request.content_type != "application/json":
        raise Refused(415, "The body must be application/json.")
    body = await request.content.read(LARGEST_BODY_BYTES + 1)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if value != {}:
        raise Refused(400, "The body must be {}.")
