"""A run whose conditions ComfyUI shares out among a model and its copies on other devices (MultiGPU CFG Split).

ComfyUI makes batches for as many devices as there are, gives each device as many conditions, and has a pool of threads
compute them. In that pool's place, the batches go where the step ends first, and to the other devices where one fails.
Which conditions are a batch never depends on times or failures: the picture has the same bits whoever computed it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...recovery.faults import LOSSES, FaultKind
from ...recovery.ladder import Failure, Rung
from ...recovery.watch import watched
from ...shares import Speeds, deal
from .. import hooks
from ..recovery.lost import lose_dead
from ..recovery.rungs import STOPS, report_fault
from ..stages import current_stage

HOOK = hooks.named("conditions by speed")

_CLONES = "multigpu_clones"
"""Key in a model call's options: its patchers by device."""
_POOL = "multigpu_thread_pool"
"""And the threads that compute for them, with `submit`, `get_result` and `devices`."""

clock = time.perf_counter


@dataclasses.dataclass
class _Part:
    """What one device did of a model call."""

    answers: dict[int, Any] = dataclasses.field(default_factory=dict)
    """By the batch's number."""
    elements: int = 0
    seconds: float = 0.0
    error: BaseException | None = None


Batch = tuple[Any, list[tuple[Any, int]]]
"""ComfyUI's: hooks, and conditions with the number of the list that each is from."""


class Split:
    """Who computes the conditions of one run; that is the model alone where it has no copies."""

    def __init__(self, patcher: Any, stage: str) -> None:
        self._patcher = patcher
        self._stage = stage
        self._copies: list[tuple[torch.device, Any]] = []
        """As the run began."""
        self._out: set[torch.device] = set()
        self._ended = False
        self._speeds = Speeds()
        self._computed: collections.Counter[torch.device] = collections.Counter()
        """Conditions, by device."""
        self._slow: dict[torch.device, str] = {}
        """Why a device gets nothing that is slower than another."""

    def shares(self, options: Mapping[str, Any]) -> bool:
        """Whether a model call's conditions are shared out, and by us."""
        if _CLONES not in options or _POOL not in options or hooks.switched_off(HOOK):
            return False
        hooks.record(HOOK, hooks.State.APPLIED, "conditions go to the device that is done with them first")
        return True

    def options(self, options: dict[str, Any], step: int) -> dict[str, Any]:
        """A model call's options with our pool, and as many devices as at the beginning, so that batches stay."""
        if not self.shares(options):
            return {name: value for name, value in options.items() if name != _CLONES} if self._ended else options
        if not self._copies:
            self._copies = [(device, copy) for device, copy in options[_CLONES].items() if copy is not self._patcher]
        clones = {self._patcher.load_device: self._patcher}
        for number, (device, copy) in enumerate(self._copies, 1):
            computes = device in self._devices() and device not in clones
            clones[device if computes else torch.device("cpu", number)] = copy
        return {**options, _CLONES: clones, _POOL: _Pool(self, options[_POOL], step)}

    def most_in_a_batch(self, conditions: int) -> int:
        """Half of what each device would get, so that a slower one can get less than others."""
        return max(1, -(-conditions // (2 * (1 + len(self._copies)))))

    def leave_out(self, device: torch.device) -> str | None:
        """Has a device compute nothing more; answers which ones go on, None where there is no other."""
        others = [other for other in self._devices() if other != device]
        if not others:
            return None
        self._out.add(device)
        return ", ".join(map(str, others))

    def end(self) -> None:
        """Has the model compute alone from now on, wherever it is."""
        self._ended = True

    def close(self) -> list[str]:
        """Lets go of the copies; answers who computed what, for the user: the log has it where no node of ours does."""
        if not self._copies:
            return []
        self._copies.clear()
        counts = ", ".join(f"{count} on {device}" for device, count in self._computed.items() if count)
        told = [f"conditions computed: {counts}", *self._slow.values()]
        for line in [] if current_stage() else told:
            logging.info("XPU Nodes, %s: %s.", self._stage, line)
        return told

    def compute(self, pool: Any, work: Callable[..., Any], batches: Sequence[Batch], step: int) -> list[Any]:
        """Has batches computed by the devices that are left.

        Raises:
            Exception: what failed on the model's own device, or where nothing else was left.
        """
        answers: dict[int, Any] = {}
        computed: collections.Counter[torch.device] = collections.Counter()
        while len(answers) < len(batches):
            left = [number for number in range(len(batches)) if number not in answers]
            parts = self._computed_by(pool, work, batches, left)
            for device, part in parts.items():
                answers.update(part.answers)
                computed[device] += sum(len(batches[number][1]) for number in part.answers)
            failed = {device: part.error for device, part in parts.items() if part.error is not None}
            for device, error in sorted(failed.items(), key=lambda one: one[0] == self._patcher.load_device):
                self._go_on_without(device, error, step)
        self._computed.update(computed)
        return [answers[number] for number in range(len(batches))]

    def _devices(self) -> list[torch.device]:
        own = self._patcher.load_device
        copies = [] if self._ended else [device for device, _ in self._copies]
        return [device for device in dict.fromkeys([own, *copies]) if device not in self._out]

    def _computed_by(
        self, pool: Any, work: Callable[..., Any], batches: Sequence[Batch], left: Sequence[int]
    ) -> dict[torch.device, _Part]:
        owners = self._owners([batches[number] for number in left])
        parts = {device: _Part() for device in owners}
        jobs = {
            device: functools.partial(
                self._do,
                work,
                device,
                {number: batches[number] for number, owner in zip(left, owners, strict=True) if owner == device},
                part,
            )
            for device, part in parts.items()
        }
        for device in jobs.keys() & set(pool.devices):
            pool.submit(device, jobs[device])
        for device in jobs.keys() - set(pool.devices):  # where the model went after its own device had failed
            jobs[device]()
        for device in jobs.keys() & set(pool.devices):
            pool.get_result(device)
        for device, part in parts.items():
            if part.error is None:
                self._speeds.learn(device, part.elements, part.seconds)
        return parts

    def _owners(self, batches: Sequence[Batch]) -> list[torch.device]:
        devices = self._devices()
        seconds, sizes = self._speeds.assumed(devices), [_elements(batch) for batch in batches]
        owners = deal(sizes, seconds)
        fastest = min(seconds, key=seconds.__getitem__)
        for device in [device for device in devices if device not in owners and len(batches) >= len(devices)]:
            if device not in self._slow:
                one = _elements(batches[0]) / len(batches[0][1])
                self._slow[device] = (
                    f"{device} computes nothing more in this run: a condition takes {seconds[device] * one:.3g} s "
                    f"there, {seconds[fastest] * one:.3g} s on {fastest}, and the others are done sooner without it"
                )
        return owners

    def _do(self, work: Callable[..., Any], device: torch.device, batches: Mapping[int, Batch], part: _Part) -> None:
        """Computes a device's batches, on the thread that the pool has for it."""
        model = self._patcher
        try:
            for number, batch in batches.items():
                elements, kind = _elements(batch), (type(model.model).__name__, model.model_size())
                answer, seconds = watched(
                    functools.partial(_timed, work, device, batch), device, self._stage, *kind, elements
                )
                part.answers[number] = answer
                part.elements += elements
                part.seconds += seconds
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            part.error = error

    def _go_on_without(self, device: torch.device, error: BaseException, step: int) -> None:
        """Leaves out a device of a copy on which something failed that may be tried elsewhere; raises other errors."""
        if device == self._patcher.load_device or isinstance(error, STOPS):
            raise error
        failure = Failure.of(error)
        others = None if failure.kind is FaultKind.UNKNOWN else self.leave_out(device)
        if others is None:
            raise error
        if failure.kind in LOSSES:
            lose_dead(error)
        report_fault(failure, Rung.ACCELERATOR, device=str(device), stage=self._stage, words=others, step=step)


class _Pool:
    """In the place of ComfyUI's pool of threads in one model call: it computes when all that is to be is known."""

    def __init__(self, split: Split, pool: Any, step: int) -> None:
        self._split = split
        self._pool = pool
        self._step = step
        self._work: Callable[..., Any] | None = None
        self._given: list[tuple[torch.device, Batch]] = []
        self._answers: list[Any] | None = None

    def submit(self, device: torch.device, work: Callable[..., Any], _: torch.device, batches: list[Batch]) -> None:
        """Takes what ComfyUI would have a device compute."""
        self._work = work
        self._given += [(device, batch) for batch in batches]

    def get_result(self, device: torch.device) -> tuple[list[Any] | None, Exception | None]:
        """The answers to that, in its order, or what failed."""
        assert self._work is not None
        try:
            if self._answers is None:
                batches = [batch for _, batch in self._given]
                self._answers = self._split.compute(self._pool, self._work, batches, self._step)
        except Exception as error:  # noqa: BLE001 - ComfyUI raises it
            return None, error
        answers = [answer for (given, _), answer in zip(self._given, self._answers, strict=True) if given == device]
        return [entry for answer in answers for entry in answer], None


def _timed(work: Callable[..., Any], device: torch.device, batch: Batch) -> tuple[Any, float]:
    """ComfyUI's answer, which is on the host and so is complete, and the seconds that it took."""
    began = clock()
    answer = work(device, [batch])
    return answer, clock() - began


def _elements(batch: Batch) -> int:
    return sum(int(condition.input_x.numel()) for condition, _ in batch[1])
