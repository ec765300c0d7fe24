"""A prompt that hangs in what nobody watches, as a node that calls a device by itself: found, and said.

Nothing in the process can end that; a restart does, see `restart`.
"""

from __future__ import annotations

import dataclasses
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
"""ComfyUI's function that takes prompts from the queue, on a thread of its own."""


@dataclasses.dataclass(frozen=True)
class Stuck:
    """What hangs."""

    device: str
    stage: str
    """The type of the node that is executed."""
    seconds: float

    def __str__(self) -> str:
        return f"{self.device} has given no answer for {self.seconds:.0f} s to {self.stage}, where nothing can end it"


_stuck: Stuck | None = None


def stuck() -> Stuck | None:
    """What hangs now."""
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
    still_seconds = 0.0
    while True:
        time.sleep(LOOK_SECONDS)
        at = _position(server)
        if at is None or at != was_at:
            was_at, still_seconds = at, 0.0
            if _stuck is not None:
                _stuck = None
                logging.info("XPU Nodes: the prompt that hung goes on.")
            continue
        still_seconds += LOOK_SECONDS
        if _stuck is None and 0 < PATIENCE.least_seconds <= still_seconds:
            _stuck = _found(server, at, still_seconds)
            still_seconds = 0.0


def _position(server: PromptServer) -> Position | None:
    """Where the thread that runs prompts is; None while it runs none, or waits for work that is watched."""
    if not server.prompt_queue.get_tasks_remaining():
        return None
    for frame in current_frames().values():
        if _runs_prompts(frame):
            return None if waits_for_watched(frame) else position(frame)
    return None


def _runs_prompts(frame: types.FrameType) -> bool:
    outer: types.FrameType | None = frame
    while outer is not None and outer.f_code.co_name != _WORKER:
        outer = outer.f_back
    return outer is not None


def _found(server: PromptServer, at: Position, still_seconds: float) -> Stuck | None:
    """Asks the devices, long enough for what a busy one has to do first."""
    limit_seconds = (NEW_WORK - 1) * PATIENCE.least_seconds
    devices = silent([device.torch_device for device in host_inventory().accelerators], limit_seconds)
    if not devices or _position(server) != at:
        return None
    prompt_id, node_id, node = _executed(server)
    found = Stuck(str(devices[0]), str(node.get("class_type", "ComfyUI")), still_seconds + limit_seconds)
    logging.error("XPU Nodes: %s: restart ComfyUI from the XPU tab, or by POST /xpu/restart, with its queue.", found)
    own_book().note_silent(found.device, found.stage, node_id)
    fault = Fault(FaultKind.NO_ANSWER.value, found.device, found.stage, message=str(found), node_id=node_id, hangs=True)
    record_fault(prompt_id, fault)
    return found


def _executed(server: PromptServer) -> tuple[str, str, dict[str, Any]]:
    """The ids of the prompt and the node that are executed, and the node."""
    running, _ = server.prompt_queue.get_current_queue()
    node_id = server.last_node_id or ""
    return (running[0][1], node_id, running[0][2].get(node_id, {})) if running else ("", node_id, {})
