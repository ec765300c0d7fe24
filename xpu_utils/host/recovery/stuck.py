"""Prompts that do not go on: one hangs in what nobody watches, or the thread that runs them has ended. It is said.

Nothing in the process can end that; a restart does, see `restart`.
"""

from __future__ import annotations

import logging
import threading
import time
import types
from typing import Any

from server import PromptServer

from ...machine.last_words import own_book
from ...recovery.faults import FaultKind
from ...recovery.jobs import Fault, record_fault
from ...recovery.watch import (
    LOOK_SECONDS,
    NEW_WORK,
    PATIENCE,
    Position,
    current_frames,
    position,
    silent,
    waits_for_watched,
)
from ..inventory import host_inventory

_WORKER = "prompt_worker"
"""ComfyUI's function that takes prompts from the queue, on a thread of its own that is named by it."""

_NOWHERE: Position = []
"""Where no thread runs prompts although some wait."""

_SAID = "XPU Nodes: %s: restart ComfyUI from the XPU tab, or by POST /xpu/restart, with its queue."
_stuck = ""


def stuck() -> str:
    """Why prompts do not go on now; empty while they do."""
    return _stuck


def look_after(server: PromptServer) -> None:
    """Looks from now on whether the thread that runs prompts goes on, and whether the devices answer if it does not."""
    threading.Thread(target=_look, args=(server,), name="xpu-stuck", daemon=True).start()


def _look(server: PromptServer) -> None:
    try:
        _look_on(server)
    except Exception:
        logging.exception("XPU Nodes: whether a prompt hangs is not looked at any more until ComfyUI is restarted.")


def _look_on(server: PromptServer) -> None:
    global _stuck
    was_at: Position | None = None
    still_seconds, ran = 0.0, False
    while True:
        time.sleep(LOOK_SECONDS)
        at = _position(server)
        ran = ran or any(_WORKER in thread.name for thread in threading.enumerate())
        if at is None or at != was_at:
            was_at, still_seconds = at, 0.0
            if _stuck:
                _stuck = ""
                logging.info("XPU Nodes: no prompt is held up any more.")
            continue
        still_seconds += LOOK_SECONDS
        if _stuck:
            continue
        if at == _NOWHERE and ran:
            _stuck = "ComfyUI's thread that runs prompts has ended by an error"
            logging.error(_SAID, _stuck)
        elif at and 0 < PATIENCE.least_seconds <= still_seconds:
            _stuck = _found(server, at, still_seconds)
            still_seconds = 0.0


def _position(server: PromptServer) -> Position | None:
    """Where the thread that runs prompts is; None while there are none, or it waits for work that is watched."""
    if not server.prompt_queue.get_tasks_remaining():
        return None
    for frame in current_frames().values():
        if _runs_prompts(frame):
            return None if waits_for_watched(frame) else position(frame)
    return _NOWHERE


def _runs_prompts(frame: types.FrameType) -> bool:
    outer: types.FrameType | None = frame
    while outer is not None and outer.f_code.co_name != _WORKER:
        outer = outer.f_back
    return outer is not None


def _found(server: PromptServer, at: Position, still_seconds: float) -> str:
    """Asks the devices, long enough for what a busy one has to do first."""
    limit_seconds = (NEW_WORK - 1) * PATIENCE.least_seconds
    devices = silent([device.torch_device for device in host_inventory().accelerators], limit_seconds)
    if not devices or _position(server) != at:
        return ""
    prompt_id, node_id, node = _executed(server)
    device, stage, seconds = str(devices[0]), str(node.get("class_type", "ComfyUI")), still_seconds + limit_seconds
    found = f"{device} has given no answer for {seconds:.0f} s to {stage}, where nothing can end it"
    logging.error(_SAID, found)
    own_book().note_silent(device, stage, node_id)
    fault = Fault(FaultKind.NO_ANSWER.value, device, stage, message=found, node_id=node_id, hangs=True)
    record_fault(prompt_id, fault)
    return found


def _executed(server: PromptServer) -> tuple[str, str, dict[str, Any]]:
    """The ids of the prompt and the node that are executed, and the node."""
    running, _ = server.prompt_queue.get_current_queue()
    node_id = server.last_node_id or ""
    return (running[0][1], node_id, running[0][2].get(node_id, {})) if running else ("", node_id, {})
