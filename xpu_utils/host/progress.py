"""The progress bar and the stop button of a node whose work has none of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from comfy.model_management import throw_exception_if_processing_interrupted as check_stop
from comfy.utils import ProgressBar

Answer = TypeVar("Answer")

__all__ = ["check_stop", "stepping"]


def stepping(work: Callable[..., Answer], steps: int) -> Callable[..., Answer]:
    """The work, each call one step of the running node's bar, which the stop button ends before the next."""
    bar = ProgressBar(steps)

    def step(*arguments: object, **keywords: object) -> Answer:
        check_stop()
        answer = work(*arguments, **keywords)
        bar.update(1)
        return answer

    return step
