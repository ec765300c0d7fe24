"""What is done to ComfyUI when the pack is loaded."""

from __future__ import annotations

from collections.abc import Callable

from .hooks import check_left_out
from .memory import apply_free_memory_hook, apply_memory_fraction
from .protecting.switch import install_switch
from .running.preview import apply_preview_hook

HOOKS: tuple[Callable[[], None], ...] = (
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
