"""Text from an Ollama server, for prompts written by a language model inside a graph.

A graph names a model and never an address: the servers are those the machine's owner allows in
``XPU_NODES_OLLAMA_HOSTS``, so a workflow from a stranger cannot make this machine call other hosts.
The official ``ollama`` client does the talking; it is imported when first used, because most users
of the pack never use it. API: https://docs.ollama.com/api (``/api/tags``, ``/api/ps``, ``/api/generate``).
"""

from __future__ import annotations

import asyncio
import contextvars
import ipaddress
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ..machine.pip import pip

if TYPE_CHECKING:
    from ollama import AsyncClient

log = logging.getLogger(__name__)

HOSTS_VARIABLE = "XPU_NODES_OLLAMA_HOSTS"
SHARES_DEVICE_VARIABLE = "XPU_NODES_OLLAMA_SHARES_DEVICE"
DEFAULT_HOST = "http://127.0.0.1:11434"
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Bytes of HTTP body accepted for one answer: about 20,000 streamed tokens, far above any prompt."""
LIST_TIMEOUT_S = 5.0
UNLOAD_TIMEOUT_S = 10.0
POLL_S = 0.2
"""How often a waiting request looks at the stop button, the clock and the unloading model."""

T = TypeVar("T")


class OllamaError(RuntimeError):
    """The server gave no usable answer; the message is one sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request to a language model.

    ``keep_alive_s`` is how long the model stays loaded afterwards (negative: for ever); it is
    replaced by 0 when the server shares the device with the sampler.
    """

    model: str
    instruction: str
    text: str
    seed: int
    temperature: float
    max_tokens: int
    keep_alive_s: int
    time_limit_s: float


def allowed_hosts(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Addresses the machine's owner allows, in order of preference.

    Raises:
        OllamaError: an entry of ``XPU_NODES_OLLAMA_HOSTS`` is not an http(s) address.
    """
    entries = [entry.strip().rstrip("/") for entry in environ.get(HOSTS_VARIABLE, "").split(",")]
    hosts = tuple(entry for entry in entries if entry) or (DEFAULT_HOST,)
    for host in hosts:
        if not _is_address(host):
            raise _not_an_address(host)
    return hosts


def _is_address(host: str) -> bool:
    try:
        parts = urlsplit(host)
        numbered = parts.port != 0
    except ValueError:  # brackets without an address in them, or a port that is none
        return False
    beyond = "@" in parts.netloc or parts.path or parts.query or parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and numbered and not beyond


def _not_an_address(host: str) -> OllamaError:
    shown = re.sub(r"//.*@", "//...@", host)  # a password stays out of logs
    return OllamaError(
        f"{HOSTS_VARIABLE}: {shown!r} is not an address; write it like {DEFAULT_HOST}, separated by commas."
    )


def shares_device(host: str, environ: Mapping[str, str]) -> bool:
    """Whether Ollama at ``host`` must leave the device before sampling starts.

    ``XPU_NODES_OLLAMA_SHARES_DEVICE`` (1 or 0) decides; unset, a server on this machine is taken to
    share it, because reloading a model costs seconds and sampling without memory fails.
    """
    chosen = environ.get(SHARES_DEVICE_VARIABLE, "")
    if chosen in ("0", "1"):
        return chosen == "1"
    name = urlsplit(host).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def list_models(hosts: tuple[str, ...]) -> dict[str, str]:
    """Models the servers can run, each with the first server that has it.

    Raises:
        OllamaError: none of the servers answered, or the ``ollama`` package is missing.
    """
    return _in_own_loop(lambda: _list_models(hosts, LIST_TIMEOUT_S))


def ask(
    question: Question,
    *,
    environ: Mapping[str, str],
    on_text: Callable[[str, int], None],
    check_stop: Callable[[], None],
    unload_timeout_s: float = UNLOAD_TIMEOUT_S,
) -> str:
    """Ask the first allowed server that has the model, and return its whole answer.

    Args:
        on_text: called with the answer so far and the number of pieces received.
        check_stop: called several times a second; what it raises ends the request and is passed on.

    Raises:
        OllamaError: the server is away, slow, refuses, or answers with something unusable.
    """
    return _in_own_loop(lambda: _ask(question, environ, on_text, check_stop, unload_timeout_s))


@dataclass
class ModelMenu:
    """Model names for a drop-down list: never waits longer than ``wait_s``, asks once per ``ttl_s``."""

    ttl_s: float = 10.0
    wait_s: float = 0.5
    _names: tuple[str, ...] = ()
    _asked_at: float = field(default=float("-inf"))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Names known now; a slow server's names appear at the next call."""
        with self._lock:
            if time.monotonic() - self._asked_at < self.ttl_s:
                return self._names
            self._asked_at = time.monotonic()
        worker = threading.Thread(target=self._refresh, args=(dict(environ),), daemon=True)
        worker.start()
        worker.join(self.wait_s)
        return self._names

    def _refresh(self, environ: Mapping[str, str]) -> None:
        try:
            self._names = tuple(sorted(list_models(allowed_hosts(environ))))
        except OllamaError as error:
            # The list is a convenience: the user hears of it when a graph asks.
            log.debug("XPU Ollama Prompt: %s", error)
            self._names = ()


def _in_own_loop(work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine to its end from ordinary code.

    A thread of its own, because ComfyUI calls nodes inside its running event loop; the caller's
    context goes along, because ComfyUI keeps the executing node's identity there.
    """

    async def main() -> T:
        return await work()

    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(contextvars.copy_context().run, lambda: asyncio.run(main())).result()


@asynccontextmanager
async def _connected(host: str, timeout_s: float) -> AsyncIterator[AsyncClient]:
    try:
        import httpx
        from ollama import AsyncClient

        from .transport import BoundedTransport
    except ImportError as error:
        raise OllamaError(
            f"The Python package 'ollama' is missing; install it with: {pip('install ollama')}"
        ) from error
    async with BoundedTransport(MAX_ANSWER_BYTES) as transport:
        # No redirects, and through the transport of our own no proxies from the environment: either could lead
        # to another host.
        try:
            client = AsyncClient(host=host, timeout=timeout_s, follow_redirects=False, transport=transport)
        except httpx.InvalidURL as error:
            raise _not_an_address(host) from error
        yield client


async def _list_models(hosts: tuple[str, ...], timeout_s: float) -> dict[str, str]:
    servers: dict[str, str] = {}
    failures: list[OllamaError] = []
    for host in hosts:
        try:
            async with _connected(host, timeout_s) as client:
                listed = await _translated(client.list(), host, timeout_s)
        except OllamaError as error:
            failures.append(error)
            continue
        for entry in listed.models:
            if entry.model and not _runs_elsewhere(entry.model):
                servers.setdefault(entry.model, host)
    if len(failures) == len(hosts):
        raise failures[0]
    return servers


def _runs_elsewhere(model: str) -> bool:
    # Ollama forwards its cloud models to ollama.com, a host nobody allowed.
    # Naming: https://docs.ollama.com/cloud
    return model.endswith((":cloud", "-cloud"))


async def _ask(
    question: Question,
    environ: Mapping[str, str],
    on_text: Callable[[str, int], None],
    check_stop: Callable[[], None],
    unload_timeout_s: float,
) -> str:
    deadline = time.monotonic() + question.time_limit_s
    hosts = allowed_hosts(environ)
    list_timeout_s = min(LIST_TIMEOUT_S, question.time_limit_s)
    late = (
        f"{question.model!r} did not finish within {question.time_limit_s:g} s; "
        "raise the time limit or choose a smaller model."
    )
    servers = await _watched(_list_models(hosts, list_timeout_s), deadline, late, check_stop)
    host = servers.get(question.model) or servers.get(f"{question.model}:latest")
    if host is None:
        raise OllamaError(_unknown_model(question.model, hosts, servers))
    leave = shares_device(host, environ)
    async with _connected(host, question.time_limit_s) as client:
        stream = _translated(_stream(client, question, leave, on_text), host, question.time_limit_s)
        answer = await _watched(stream, deadline, late, check_stop)
        if leave:
            await _unloaded(client, question.model, host, check_stop, unload_timeout_s)
        return answer


def _unknown_model(model: str, hosts: tuple[str, ...], servers: Mapping[str, str]) -> str:
    if _runs_elsewhere(model):
        return f"{model!r} runs on ollama.com and not on an allowed server; choose a model that runs on yours."
    known = ", ".join(sorted(servers)) or "none"
    return f"No server at {', '.join(hosts)} has {model!r} (it has: {known}); get it with: ollama pull {model}"


async def _stream(client: AsyncClient, question: Question, leave: bool, on_text: Callable[[str, int], None]) -> str:
    pieces: list[str] = []
    stream = await client.generate(
        model=question.model,
        prompt=question.text,
        system=question.instruction,
        stream=True,
        keep_alive=0 if leave else question.keep_alive_s,
        options={
            "seed": question.seed,
            "temperature": question.temperature,
            "num_predict": question.max_tokens,
        },
    )
    async for part in stream:
        if part.response is None:  # older clients refuse such an answer themselves
            raise ValueError("an answer without text")
        pieces.append(part.response)
        on_text("".join(pieces), len(pieces))
        if part.done:
            return "".join(pieces)
    raise OllamaError("The Ollama server closed the connection before its answer was complete; try again.")


async def _watched(work: Awaitable[T], deadline: float, late: str, check_stop: Callable[[], None]) -> T:
    """Await ``work`` until it ends, the stop button is pressed or the time is up, which ``late`` then says."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_S)
            check_stop()
            if not task.done() and time.monotonic() > deadline:
                raise OllamaError(late)
        return task.result()
    finally:
        # Closing the connection is what makes Ollama stop generating.
        task.cancel()


async def _unloaded(
    client: AsyncClient, model: str, host: str, check_stop: Callable[[], None], timeout_s: float
) -> None:
    """Wait until the server no longer holds the model, so that sampling finds the memory free."""
    names = {model, f"{model}:latest"}

    async def gone() -> None:
        while names & {entry.model for entry in (await _translated(client.ps(), host, timeout_s)).models}:
            await asyncio.sleep(POLL_S)

    deadline = time.monotonic() + timeout_s
    late = f"the server did not show within {timeout_s:g} s that it is unloaded"
    try:
        await _watched(gone(), deadline, late, check_stop)
    except OllamaError as error:
        # The answer is here; what happened to the server afterwards is no reason to lose it.
        log.warning("XPU Ollama Prompt: %s may still hold the device, sampling may lack memory: %s", model, error)


async def _translated(work: Awaitable[Any], host: str, timeout_s: float) -> Any:
    """Await a call of the official client and say in one sentence what went wrong with it."""
    import httpx
    from ollama import ResponseError

    from .transport import AnswerTooLarge

    try:
        return await work
    except ConnectionError as error:
        raise OllamaError(f"No Ollama server at {host}; start it, or name yours in {HOSTS_VARIABLE}.") from error
    except httpx.TimeoutException as error:
        raise OllamaError(
            f"The Ollama server at {host} was silent for {timeout_s:g} s; look at its log, or raise the time limit."
        ) from error
    except ResponseError as error:
        raise OllamaError(f"The Ollama server at {host} refused: {str(error)[:300]}") from error
    except AnswerTooLarge as error:
        raise OllamaError(
            f"The Ollama server at {host} sent more than {MAX_ANSWER_BYTES} bytes; lower max_tokens."
        ) from error
    except httpx.HTTPError as error:
        raise OllamaError(f"The connection to the Ollama server at {host} broke: {error!r}") from error
    except (ValueError, TypeError, AttributeError) as error:
        # What the official client raises for a body that is no JSON, no object or of the wrong shape.
        raise OllamaError(f"What answered at {host} does not speak Ollama's API; check {HOSTS_VARIABLE}.") from error
