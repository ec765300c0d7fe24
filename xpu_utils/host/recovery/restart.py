"""ComfyUI is restarted where only that gets a device back: the queue is kept, the interrupted prompt comes first."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import execution
import folder_paths
import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name
from comfy.cli_args import args
from server import PromptServer

from ...recovery.again import begin_anew, own_command
from ...recovery.faults import lost_devices
from .. import hooks
from . import stuck

HOOK = hooks.named("restart")

PAGES_SECONDS = 5.0
"""So long a kept prompt waits for its page to be there again, which is told what it does."""

_NO_PAGE = "--disable-auto-launch"
"""ComfyUI's argument: the page is open already."""

_SECRETS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})
"""What a prompt carries for paid services: never written to a file, by ComfyUI neither."""

_started_in = os.getcwd()
_tasks: list[asyncio.Task[None]] = []
"""Held: the event loop forgets what nobody else does."""


class CannotRestartError(RuntimeError):
    """Why not, in one sentence."""


def reason() -> str:
    """Why a restart helps; empty where it does not."""
    if hooks.switched_off(HOOK):
        return ""
    if stuck.stuck():
        return f"{stuck.stuck()}."
    return " ".join(f"{device} is lost: {message}." for device, message in lost_devices().items())


def install_restart() -> None:
    """Queues what the process before this one has kept, as soon as the server listens, and looks for what hangs."""
    if hooks.switched_off(HOOK):
        return
    server = PromptServer.instance

    async def listening(_: Any) -> None:  # every pack is loaded now
        if kept := _take():
            hooks.put(server, "number", max(server.number, len(kept)))  # of what is queued from now on: it comes later
            _tasks.append(asyncio.get_running_loop().create_task(_queue(server, kept)))

    hooks.heed(server.app.on_startup, listening)
    stuck.look_after(server)
    hooks.record(HOOK, hooks.State.APPLIED, "ComfyUI can be restarted with its queue where a device is lost or hangs")


def keep() -> int:
    """Writes down the prompts that run and wait, in this order.

    Returns:
        How many.

    Raises:
        CannotRestartError: ComfyUI cannot be restarted from inside, or they cannot be written or queued again.
    """
    if not own_command() or "__COMFYUI_DESKTOP_VERSION__" in os.environ:
        raise CannotRestartError("ComfyUI was started by a program that has to restart it: use its menu.")
    running, waiting = PromptServer.instance.prompt_queue.get_current_queue()
    prompts = [_written(item) for item in (*running, *sorted(waiting, key=lambda item: item[:2]))]
    try:
        _check(prompts)
        _write(_file(), prompts)
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise CannotRestartError(f"The queue cannot be kept in ComfyUI's user folder: {error}.") from error
    return len(prompts)


def restart() -> None:
    """Keeps the queue as it is now and begins anew; comes back only where that is not possible."""
    hanging = reason()
    with PromptServer.instance.prompt_queue.mutex:  # what ends meanwhile would be done twice
        try:
            count = keep()
            logging.warning("XPU Nodes: ComfyUI restarts, and goes on with %d prompts. %s", count, hanging)
            command = own_command()
            begin_anew(command if _NO_PAGE in command else [*command, _NO_PAGE], _started_in)
        except (CannotRestartError, OSError) as error:
            logging.error("XPU Nodes: ComfyUI could not be restarted, its queue stays in this process: %s", error)
            _remove(_file())  # or the next start would queue again what this process has done meanwhile


def _file() -> Path:
    """One for each server that shares the folder."""
    return Path(folder_paths.get_user_directory()) / f"xpu-nodes-queue-{args.port}.json"


def _written(item: tuple[Any, ...]) -> list[Any]:
    """A prompt of the queue without its place, and without what newer hosts keep apart as it is secret."""
    prompt_id, prompt, extra, outputs, *apart = item[1:]
    public = {name: value for name, value in extra.items() if name not in _SECRETS}
    return [prompt_id, prompt, public, outputs, *({} for _ in apart)]


def _taken() -> Path:
    """What `_file` is called from the start of a process until its prompts are queued."""
    return _file().with_suffix(".taken")


def _write(file: Path, prompts: list[list[Any]]) -> None:
    """Writes all of it, or nothing; through no link that somebody else has put there.

    Raises:
        OSError: it cannot be written.
        TypeError, ValueError, RecursionError: it is no JSON.
    """
    text = json.dumps(prompts)
    number, part = tempfile.mkstemp(prefix=file.name, suffix=".part", dir=file.parent)
    try:
        with open(number, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(part, file)
    except BaseException:
        os.unlink(part)
        raise


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        logging.warning("XPU Nodes: remove %s, or its prompts are queued again at the next start: %s", file, error)


def _take() -> list[list[Any]]:
    """What was kept, also for a process that ended before it had queued it; it is there until it is queued."""
    file, taken = _file(), _taken()
    try:
        parts = [json.loads(part.read_text(encoding="utf-8")) for part in (taken, file) if part.exists()]
        for part in parts:
            _check(part)
        kept = [*{prompt[0]: prompt for part in parts for prompt in part}.values()]
        if file.exists():
            _write(taken, kept)
            file.unlink()
        return kept
    except (OSError, ValueError, RecursionError) as error:
        logging.warning("XPU Nodes: the queue that was kept is left alone, as %s.refused: %s", file, error)
        for part in (taken, file):
            with contextlib.suppress(OSError):  # it is not there, or can be neither read nor renamed
                os.replace(part, f"{part}.refused")
        return []


def _check(kept: Any) -> None:
    """Looks whether ComfyUI's thread that runs prompts survives them: it ends where one has another shape.

    Raises:
        ValueError: it would not.
    """
    # As many places as this host's items have after their number; the last came together with that parameter.
    apart = int("process_item" in inspect.signature(execution.PromptQueue.task_done).parameters)
    if not isinstance(kept, list):
        raise ValueError("it is no list of prompts")
    for place, item in enumerate(kept):
        match item:
            case [str(), dict() as prompt, dict() as extra, list() as outputs, *rest] if (
                len(rest) == apart
                and all(isinstance(secret, dict) for secret in rest)
                and isinstance(extra.get("client_id"), str | None)
                and all(isinstance(output, str) and output in prompt for output in outputs)
            ):
                pass
            case _:
                raise ValueError(f"its prompt {place} has not the shape that this ComfyUI queues")
        for node in prompt.values():
            if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
                raise ValueError(f"its prompt {place} has a node without inputs")
            if not isinstance(node.get("class_type"), str) or node["class_type"] not in host_nodes.NODE_CLASS_MAPPINGS:
                raise ValueError(f"its prompt {place} has a node of a type that is not there")


async def _queue(server: PromptServer, kept: list[list[Any]]) -> None:
    page, queue, loop = kept[0][2].get("client_id"), server.prompt_queue, asyncio.get_running_loop()
    deadline = loop.time() + PAGES_SECONDS
    while page and page not in server.sockets and not queue.get_tasks_remaining() and loop.time() < deadline:
        await asyncio.sleep(0.1)
    with queue.mutex:  # none begins before the file is gone, so that none is done twice
        for number, prompt in enumerate(kept):
            queue.put((number, *prompt))
        _remove(_taken())
    logging.info("XPU Nodes: %d prompts of before the restart are queued again.", len(kept))
