"""Who may ask: those with the token, or this machine's own programs and pages where there is none."""

from __future__ import annotations

import base64
import contextlib
import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import SplitResult, urlsplit

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from .requests import Refused, refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TOKEN_CHARACTERS = 16
"""The shortest token that is taken."""


def is_of_the_server(record: logging.LogRecord) -> bool:
    """Whether a line of aiohttp's log is not just of what a client sent: anybody could fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], (HttpProcessingError, ConnectionError)))


def is_loopback(host: str | None) -> bool:
    """Whether a name or an address is only of this machine; no name is looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def guarding(token: str) -> Middleware:
    """A middleware that lets only those in who may ask, and answers refusals."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            _check_site(request)
            if token:
                _check_token(request, token)
            elif not is_loopback(_split(f"//{request.host}").hostname):
                # Another site's page whose name was made to lead here.
                raise refused(403, "forbidden", "Without a token this address answers to localhost only")
            return await handler(request)
        except Refused as refusal:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            return web.json_response(refusal.body, status=refusal.status, headers=headers)
        except web.HTTPException as error:
            allowed = {name: value for name, value in error.headers.items() if name == "Allow"}
            body = refused(error.status, "http_error", error.reason).body
            return web.json_response(body, status=error.status, headers=allowed)

    return guard


def _check_site(request: web.Request) -> None:
    """Refuses what another site's page makes the browser send."""
    origin = request.headers.get("Origin")
    other_site = request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")
    if other_site or (origin is not None and _split(origin).netloc.lower() != request.host.lower()):
        raise refused(403, "forbidden", "Pages of other sites are not answered")


def _check_token(request: web.Request, token: str) -> None:
    if not hmac.compare_digest(_given(request).encode(errors="replace"), token.encode()):
        raise refused(401, "unauthorized", "A token is needed: Authorization: Bearer TOKEN")


def _given(request: web.Request) -> str:
    """The token of a request: a bearer's, a user's password for clients that know no other way, a WebSocket's query."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        with contextlib.suppress(ValueError):  # no base64, or no text in it
            return base64.b64decode(value).decode().partition(":")[2]
        return ""
    return request.query.get("token", "") if request.path.endswith("/ws") else ""


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")
