"""What is done to ComfyUI when the pack is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from . import int8, memory
from .hooks import State, check_left_out, named, record, switched_off
from .protecting import switch
from .recovery import emptying, restart
from .running import preview

FALLBACK_HOOK = named("operator fallback")


def list_operator_fallback() -> None:
    """Lists what `prestartup_script.py` has set, before torch was imported."""
    variable = "PYTORCH_ENABLE_XPU_FALLBACK"
    if switched_off(FALLBACK_HOOK):
        return
    value = os.environ.get(variable, "")
    if value == "1":
        record(FALLBACK_HOOK, State.APPLIED, f"operators without an XPU kernel run on the CPU ({variable}=1)")
    else:
        record(FALLBACK_HOOK, State.STOOD_DOWN, f"{variable} is {value!r}")


HOOKS: Mapping[str, Callable[[], None]] = {
    FALLBACK_HOOK: list_operator_fallback,
    memory.FREE_MEMORY_HOOK: memory.apply_free_memory_hook,
    memory.FRACTION_HOOK: memory.apply_memory_fraction,
    memory.UNLOADING_HOOK: memory.apply_unloading_hook,
    emptying.HOOK: emptying.apply_cache_hook,
    preview.HOOK: preview.apply_preview_hook,
    int8.CONTROL_HOOK: int8.apply_control_hook,
    int8.SAVING_HOOK: int8.apply_saving_hook,
    switch.HOOK: switch.install_switch,
    restart.HOOK: restart.install_restart,
}
"""By name, in this order; each is guarded, can be switched off, and records what became of it (see `hooks`)."""


def apply_hooks() -> None:
    """Applies every hook; what an unknown ComfyUI has no place for is listed with the reason, and nodes are there.

    Allocates nothing on any device.
    """
    for name, apply in HOOKS.items():
        try:
            apply()
        except (AttributeError, KeyError, TypeError) as error:
            record(name, State.UNAVAILABLE, f"this ComfyUI is none that it was made for: {error}")
    check_left_out()
