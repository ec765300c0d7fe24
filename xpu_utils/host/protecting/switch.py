"""The switch: read when a prompt begins, and acted upon before its first node runs."""

from __future__ import annotations

import threading
from typing import Any

import comfy.model_management as model_management
import execution
from aiohttp import web
from server import PromptServer

from ...recovery.watch import PATIENCE, chosen_seconds
from ...weights.pinned import limit_locked
from .. import hooks
from ..recovery import takeover
from ..recovery.lost import readied
from ..recovery.weights import allow_a_host_copy
from .exempt import leave_alone
from .loaders import Loaders
from .repeating import Repeating
from .settings import PREFIX, VARIABLE, Protection, chosen
from .touches import Touch
from .twins import Twins
from .using import Using

HOOK = hooks.named("protection")
_LEFT_OUT = "left out by ComfyUI's settings"


class Switch:
    """What is in front of ComfyUI's functions now."""

    def __init__(self) -> None:
        self._twins = Twins(Protection())
        self._beginning = Touch(HOOK, "on", [(execution.PromptExecutor, "execute", self._begin)])
        self._touches = tuple(touch for kind in (Using, Loaders, Repeating) for touch in kind(self._twins).touches())
        self._lock = threading.Lock()

    def watch(self) -> None:
        """If it was switched on, has the next prompt begin with `_begin`: nothing else is touched between prompts."""
        protection = chosen()
        PATIENCE.least_seconds = chosen_seconds(float(protection.patience))
        with self._lock:
            if protection.on:
                self._beginning.apply()

    def _begin(self, *_: Any, **__: Any) -> None:
        """Before a prompt's first node: what was chosen since the last one takes effect."""
        protection = chosen()
        leave_alone(protection.exempt)
        with self._lock:
            if protection != self._twins.protection:
                if protection.on and not self._twins.protection.on:
                    _secure_loaded()
                self._twins.forget()
                self._twins.protection = protection
                effective = protection if protection.on else Protection()
                takeover.choose(effective.takeover)
                limit_locked(effective.locked)
                hooks.check_left_out(f"the setting {PREFIX}.hooks", effective.left_out)
            for touch in (self._beginning, *self._touches):
                if not protection.on:
                    touch.take_back("the switch is off")
                elif touch.name in protection.left_out:
                    touch.take_back(_LEFT_OUT)
                    hooks.record(touch.name, hooks.State.STOOD_DOWN, _LEFT_OUT)  # where it never was in force, too
                else:
                    touch.apply()
        if not protection.on:
            _record_off()


def _secure_loaded() -> None:
    """Has what was loaded while the switch was off outlive its device."""
    for loaded in list(model_management.current_loaded_models):
        if loaded.model is not None:
            readied(loaded.model, allow_a_host_copy)


def _record_off() -> None:
    hooks.record(
        HOOK, hooks.State.STOOD_DOWN, f"the switch is off: stock nodes run as ComfyUI runs them (settings, {VARIABLE})"
    )


def install_switch() -> None:
    """Has the switch be looked at now, and whenever a prompt is queued or a setting stored.

    Touches nothing while it is off.
    """
    if hooks.switched_off(HOOK):
        return
    switch = Switch()
    _record_off()
    switch.watch()

    def queued(prompt: dict[str, Any]) -> dict[str, Any]:
        switch.watch()
        takeover.queued()
        return prompt

    async def answered(request: web.Request, _: web.StreamResponse) -> None:
        if request.method == "POST":  # settings are posted: prompts that wait are served as well
            switch.watch()

    PromptServer.instance.add_on_prompt_handler(queued)
    hooks.heed(PromptServer.instance.app.on_response_prepare, answered)
