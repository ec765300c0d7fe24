"""What is done to ComfyUI when the pack is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable

from .hooks import State, check_left_out, named, record, switched_off
from .memory import apply_free_memory_hook, apply_memory_fraction
from .protecting.switch import install_switch
from .running.preview import apply_preview_hook

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


HOOKS: tuple[Callable[[], None], ...] = (
    list_operator_fallback,
    apply_free_memory_hook,
    apply_memory_fraction,
    apply_preview_hook,
    install_switch,
)
"""In this order; each is guarded, can be switched off, and records what became of it (see `hooks`)."""


def apply_hooks() -> None:
    """Applies every hook. Allocates nothing on any device."""
    for hook in HOOKS:
        hook()
    check_left_out()
