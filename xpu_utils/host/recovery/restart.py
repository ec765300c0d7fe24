"""ComfyUI is restarted where only that gets a device back: the queue is kept, the interrupted prompt comes first."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import folder_paths
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
    hanging = stuck.stuck()
    if hanging is not None:
        return f"{hanging}."
    return " ".join(f"{device} is lost: {message}." for device, message in lost_devices().items())


def install_restart() -> None:
    """Queues what the process before this one has kept, as soon as the server listens, and looks for what hangs."""
    if hooks.switched_off(HOOK):
        return
    server = PromptServer.instance
    kept = _take()
    hooks.put(server, "number", max(server.number, len(kept)))  # of what is queued from now on: it comes later

    async def listening(_: Any) -> None:
        _tasks.append(asyncio.get_running_loop().create_task(_queue(server, kept)))

    if kept:
        hooks.heed(server.app.on_startup, listening)
    stuck.look_after(server)
    does = "ComfyUI can be restarted with its queue where a device is lost or hangs"
    hooks.record(HOOK, hooks.State.APPLIED, f"{does}; {len(kept)} prompts were kept" if kept else does)


def keep() -> int:
    """Writes down the prompts that run and wait, in this order.

    Returns:
        How many.

    Raises:
        CannotRestartError: ComfyUI cannot be restarted from inside, or they cannot be written.
    """
    if not own_command() or "__COMFYUI_DESKTOP_VERSION__" in os.environ:
        raise CannotRestartError("ComfyUI was started by a program that has to restart it: use its menu.")
    running, waiting = PromptServer.instance.prompt_queue.get_current_queue()
    prompts = [_written(item) for item in (*running, *sorted(waiting, key=lambda item: item[:2]))]
    file = _file()
    part = file.with_suffix(".part")
    try:
        part.write_text(json.dumps(prompts), encoding="utf-8")
        part.replace(file)  # a reader sees nothing or all of it
    except (OSError, TypeError, ValueError) as error:
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
            _file().unlink(missing_ok=True)
            logging.error("XPU Nodes: ComfyUI could not be restarted: %s", error)


def _file() -> Path:
    """One for each server that shares the folder."""
    return Path(folder_paths.get_user_directory()) / f"xpu-nodes-queue-{args.port}.json"


def _written(item: tuple[Any, ...]) -> list[Any]:
    """A prompt of the queue without its place, and without what newer hosts keep apart as it is secret."""
    prompt_id, prompt, extra, outputs, *apart = item[1:]
    public = {name: value for name, value in extra.items() if name not in _SECRETS}
    return [prompt_id, prompt, public, outputs, *({} for _ in apart)]


def _take() -> list[list[Any]]:
    """What was kept; the file is gone then, so that it is queued once."""
    file = _file()
    try:
        text = file.read_text(encoding="utf-8")
        file.unlink()
        return list(json.loads(text))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        logging.warning("XPU Nodes: the kept queue in %s cannot be read: %s", file, error)
        return []


async def _queue(server: PromptServer, kept: list[list[Any]]) -> None:
    page = kept[0][2].get("client_id")
    deadline = asyncio.get_running_loop().time() + PAGES_SECONDS
    while page and page not in server.sockets and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
    for number, prompt in enumerate(kept):
        server.prompt_queue.put((number, *prompt))
    logging.info("XPU Nodes: %d prompts of before the restart are queued again.", len(kept))
