"""Ollama inside ComfyUI: the stop button, the progress bar and the text under the node."""

from __future__ import annotations

import os
import time

from comfy import model_management
from comfy.utils import ProgressBar
from server import PromptServer

from ..ollama.client import Question, ask

SHOW_EVERY_S = 0.2


def ask_with_progress(question: Question, *, node_id: str | None) -> str:
    """Ask Ollama while ComfyUI shows the growing answer; ComfyUI's stop button ends it.

    Raises:
        OllamaError: no usable answer.
        comfy.model_management.InterruptProcessingException: the user pressed stop.
    """
    bar = ProgressBar(question.max_tokens, node_id=node_id)
    shown_at = 0.0

    def show(text: str, pieces: int) -> None:
        nonlocal shown_at
        bar.update_absolute(pieces)
        # A fast model makes hundreds of pieces a second, and each message carries the whole text.
        if node_id is not None and time.monotonic() - shown_at > SHOW_EVERY_S:
            shown_at = time.monotonic()
            PromptServer.instance.send_progress_text(text, node_id)

    return ask(
        question,
        environ=os.environ,
        on_text=show,
        check_stop=model_management.throw_exception_if_processing_interrupted,
    )
