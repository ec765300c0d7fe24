"""The memory that a sampling run is known to take: what one run has learnt from running out of it serves the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import comfy.model_management as model_management
import torch

from ...memory.needs import MARGIN, Need, Needs
from ...memory.peak import begin_within, taken_within
from ...recovery.faults import FaultKind, requested_bytes
from ...recovery.ladder import Failure, Rung
from ...weights.check import sizes_in
from ..placing.formats import compute_dtype
from ..recovery.rungs import report_fault
from ..streaming import leave_free
from .batching import at_least

_needs = Needs()

Answer = TypeVar("Answer")


class Room:
    """Of one run on one model."""

    def __init__(self, patcher: Any, stage: str) -> None:
        self._patcher, self._stage = patcher, stage
        self._given: Hashable = ()
        self._known = False
        """Whether the run began by what was learnt."""
        self._short = False
        """Set once memory has run out: model calls are measured from then on."""
        self._free_bytes = float("inf")
        """The least that was free after memory ran out."""
        self._whole_bytes = 0

    def begin(self, noise_shape: object, conds: object, controls: int) -> Need | None:
        """The run begins, on a latent and conditions of these shapes; answers how, where such have run out before.

        Ways that may change the result's bits are taken only where memory is short, and are reported.
        """
        self._given = (str(noise_shape), tuple(sizes_in(conds)), controls)
        learnt = _needs.of(self._work())
        self._known = learnt is not None
        if learnt is None:
            return None
        need = learnt.within(self._bytes())
        if need.attention_bytes is not None:
            self._report(Rung.ATTENTION, f"attention in pieces of {need.attention_bytes / 2**20:.0f} MiB")
        if need.alone:
            self._report(Rung.SPLIT, "conditions one at a time")
        return need

    def _report(self, rung: Rung, words: str) -> None:
        failure = Failure(FaultKind.OUT_OF_MEMORY, MemoryError("memory ran out in such a run before"))
        device, words = str(self._patcher.load_device), f"{words} from the beginning, since {failure.message}"
        report_fault(failure, rung, device=device, stage=self._stage, words=words)

    def loading(self, need: Need | None) -> contextlib.AbstractContextManager[None]:
        """Has what is loaded in the block leave free what the run is known to take."""
        work_bytes = 0 if need is None else int(MARGIN * need.work_bytes)
        leave_free(self._patcher, work_bytes)
        return at_least(self._patcher.model, work_bytes) if work_bytes else contextlib.nullcontext()

    def measured(self, work: Callable[[], Answer], *, attention_bytes: int | None, alone: bool) -> Answer:
        """Does a model call; where memory has run out in the run, notes what it takes.

        What would have fitted where memory ran out is no need: a driver fails so, or memory that lies in pieces.
        """
        device: torch.device = self._patcher.load_device
        if not self._short or device.type == "cpu":
            return work()
        begin_within(device)
        answer = work()
        work_bytes = taken_within(device)
        if self._whole_bytes or MARGIN * work_bytes > self._free_bytes:
            _needs.learn(self._work(), Need(work_bytes, self._whole_bytes, attention_bytes, alone))
        return answer

    def ran_out(self, failure: Failure) -> None:
        """A model call has failed; where memory ran out in it, notes what it would have taken."""
        device: torch.device = self._patcher.load_device
        if failure.kind is not FaultKind.OUT_OF_MEMORY or device.type == "cpu":
            return
        free_bytes = model_management.get_free_memory(device)
        self._free_bytes = min(self._free_bytes, free_bytes)
        if self._short:
            asked_bytes = taken_within(device) + requested_bytes(failure.message)
            if MARGIN * asked_bytes > free_bytes:  # all there is was not enough where what was learnt did not help
                self._whole_bytes = max(self._whole_bytes, asked_bytes, int(self._bytes()) if self._known else 0)
        self._short = True

    def _work(self) -> tuple[object, ...]:
        patcher = self._patcher
        model = (type(patcher.model).__name__, patcher.model_size(), compute_dtype(patcher))
        return (str(patcher.load_device), *model, self._given)

    def _bytes(self) -> float:
        """For weights and work together, once ComfyUI has unloaded what else it holds there."""
        device = self._patcher.load_device
        loaded = [entry.model for entry in model_management.current_loaded_models if entry.device == device]
        others = [patcher for patcher in loaded if patcher is not None and not patcher.is_clone(self._patcher)]
        held_bytes = self._patcher.loaded_size() + sum(patcher.loaded_size() for patcher in others)
        return float(model_management.get_free_memory(device) + held_bytes)
