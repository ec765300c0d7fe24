"""The prompt that is being executed."""

from __future__ import annotations

from server import PromptServer


def current_prompt_id() -> str:
    """The id of the prompt that is being executed; empty outside of one."""
    return str(getattr(PromptServer.instance, "last_prompt_id", None) or "")
