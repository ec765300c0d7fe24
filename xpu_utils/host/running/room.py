"""The memory that a sampling run is known to take: what one run has learnt from running out of it serves the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import comfy.model_management as model_management
import torch

from ...memory.needs import Need, Needs
from ...memory.peak import begin_within, taken_within
from ..placing.formats import compute_dtype
from ..streaming import leave_free
from .batching import at_least

_MARGIN = 1.15
"""Free memory is not in one piece."""

_needs = Needs()

Answer = TypeVar("Answer")


class Room:
    """Of one run on one model."""

    def __init__(self, patcher: Any) -> None:
        self._patcher = patcher
        self._shape = ""
        self.short = False
        """Set once memory has run out."""

    def begin(self, noise_shape: object) -> Need | None:
        """The run begins, on a latent of this shape; answers what is known of such."""
        self._shape = str(noise_shape)
        return _needs.of(self._work(), self._bytes)

    def loading(self, need: Need | None) -> contextlib.AbstractContextManager[None]:
        """Has what is loaded in the block leave free what the run is known to take."""
        work_bytes = 0 if need is None else int(_MARGIN * need.work_bytes)
        leave_free(self._patcher, work_bytes)
        return at_least(self._patcher.model, work_bytes) if work_bytes else contextlib.nullcontext()

    def measured(self, work: Callable[[], Answer], *, attention_bytes: int | None, alone: bool) -> Answer:
        """Does a model call; where memory has run out in the run, notes what it takes."""
        device: torch.device = self._patcher.load_device
        if not self.short or device.type == "cpu":
            return work()
        begin_within(device)
        answer = work()
        _needs.learn(self._work(), Need(taken_within(device), int(self._bytes()), attention_bytes, alone))
        return answer

    def _work(self) -> tuple[object, ...]:
        patcher = self._patcher
        model = (type(patcher.model).__name__, patcher.model_size(), compute_dtype(patcher))
        return (str(patcher.load_device), *model, self._shape)

    def _bytes(self) -> float:
        """For weights and work together."""
        return float(model_management.get_free_memory(self._patcher.load_device) + self._patcher.loaded_size())
