"""Whether the CPU may go on where no accelerator is left for the work: seconds can become an hour."""

from __future__ import annotations

import logging

from ...recovery.ladder import LadderExhaustedError

YES, ASK, NO = "yes", "ask by stopping", "no"

_choice = YES
_asked = False
_agreed = False
"""To the question, until the choice changes."""


def choose(choice: str) -> None:
    """Sets the choice for the prompts from now on."""
    global _choice, _asked, _agreed
    if choice != _choice:
        _choice, _asked, _agreed = choice, False, False


def queued() -> None:
    """A prompt is queued: if the question was asked before, that is the answer."""
    global _agreed
    if _asked and not _agreed:
        _agreed = True
        logging.info("XPU Nodes: the CPU may take over, a prompt was queued after that was asked.")


def check(why: str) -> None:
    """Stops what would go on on the CPU, unless it may.

    Args:
        why: what happened, as the beginning of a sentence.

    Raises:
        LadderExhaustedError: it may not, or the user has not answered yet.
    """
    global _asked
    if _choice == YES or _agreed:
        return
    if _choice == ASK:
        _asked = True
        raise LadderExhaustedError(
            f"{why}, and the CPU may take much longer: queue the prompt again to let it take over."
        )
    raise LadderExhaustedError(f"{why}, and ComfyUI's settings (XPU Nodes, Protection) do not let it take over.")
