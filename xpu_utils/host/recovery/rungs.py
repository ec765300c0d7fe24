"""What is done with a placed model after a failure: memory is freed, or the model goes on elsewhere."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import comfy.model_management as model_management

from ...machine.devices import Device
from ...placement import Placement, preferred_because
from ...recovery.faults import LOSSES, FaultKind, NotFiniteError, classify, is_lost, lost_devices
from ...recovery.jobs import Fault, record_fault
from ...recovery.ladder import INEXACT, Failure, LadderExhaustedError, Rung, RungAction, climb
from ...recovery.watch import watched
from ...weights.check import first_not_finite, sizes_in, tensors_in
from ..inventory import host_inventory
from ..memory import free_others
from ..placing.placed import lead_to, placement_of
from ..prompts import current_node_id, current_prompt_id, execute_all_anew
from ..stages import decided
from ..target import HOST, unload
from . import takeover
from .lost import answers, lose_dead, readied
from .moving import another_accelerator, cpu, relocate
from .weights import make_ready

RAN = "xpu_nodes.ran"
"""Attachment key under which a patcher carries the placement that its last work ended with."""

STOPS = (model_management.InterruptProcessingException,)
"""How ComfyUI stops a prompt: never a failure, whatever it was raised in the handling of."""

_MAY_SPOIL = (FaultKind.OUT_OF_MEMORY, FaultKind.ALLOCATION_TOO_LARGE, FaultKind.DRIVER)
"""Failures after which nothing that was on the device before can be used, on some drivers (torch-xpu-ops #1324)."""

Answer = TypeVar("Answer")


def report_fault(failure: Failure, rung: Rung, *, device: str, stage: str, words: str, step: int | None = None) -> None:
    """Tells the log, the job log and, through that, the node what failed and how it goes on."""
    kind, message = failure.kind.value, failure.message
    if rung in INEXACT:
        words += ", which may change the picture in its last digits"
    fault = Fault(kind, device, stage, words, rung.value, step, message, current_node_id())
    logging.warning("XPU Nodes: %s.", fault)
    record_fault(current_prompt_id(), fault)


class Recovery:
    """One stage's work on one placed patcher: its rungs, its reports, and the way back afterwards."""

    def __init__(self, patcher: Any, stage: str) -> None:
        readied(patcher, make_ready)
        self.patcher = patcher
        self.stage = stage
        self.failed_on = str(patcher.load_device)
        """The device of the last failure."""
        self._left: set[str] = set()
        """Devices on which it failed."""
        self._ran_on = self.failed_on
        self._asked = placement_of(patcher)

    def unload_others(self, failure: Failure, keep: Sequence[Any] = ()) -> str | None:
        """The rung that unloads every other model."""
        return free_others(self.patcher.load_device, [self.patcher, *keep])

    def go_elsewhere(self, failure: Failure, *, accelerator: bool) -> str | None:
        """The rungs that go on elsewhere; here again where only another device was lost."""
        device = self._accelerator() if accelerator else cpu()
        if device is None or device.id in self._left:
            return None
        if not accelerator:
            takeover.check(
                f"{self.stage.capitalize()} failed on {self.failed_on} ({failure.message}), only the CPU is left"
            )
        relocate(self.patcher, device, f"{failure.kind.value} on {self.failed_on}, continued on {device.id}")
        moved = placement_of(self.patcher)
        if moved is not None:
            decided(moved)
        why = preferred_because(device, host_inventory())
        return f"{device.id} ({why})" if why else device.id

    def _accelerator(self) -> Device | None:
        """The accelerator it ran on where another one failed, else one with room on which it did not fail."""
        if self._ran_on not in self._left:
            here = host_inventory().find(self._ran_on)
            return here if here in host_inventory().accelerators else None
        return another_accelerator(self._left, 1.2 * self.patcher.model_size())

    def on_failure(self, failure: Failure) -> Failure:
        """Notes where it failed; devices that are lost, or have lost what is on them, are left for good.

        Raises:
            LadderExhaustedError: something left on a device that was lost before is used.
        """
        self._ran_on = self.failed_on = str(self.patcher.load_device)
        if failure.kind in _MAY_SPOIL and _is_unreadable(self.patcher):
            failure = dataclasses.replace(failure, kind=FaultKind.DEVICE_LOST)
            lose_dead(failure.error, also=self.patcher.load_device)
        elif failure.kind in LOSSES:
            dead = lose_dead(failure.error)
            if not dead and lost_devices():
                raise LadderExhaustedError(
                    f"{self.stage.capitalize()} was given data that was left on a lost device "
                    f"({', '.join(lost_devices())}): queue the prompt again, its nodes are then executed anew."
                ) from failure.error
            self.failed_on = self._ran_on if self._ran_on in dead or not dead else dead[0]
        self._left.add(self.failed_on)
        return failure

    def watched(self, work: Callable[[], Answer], *kind: Hashable) -> Answer:
        """Does a part of the work that the device must answer to.

        Args:
            kind: what makes its time comparable, such as shapes.
        """
        device, model = self.patcher.load_device, type(self.patcher.model).__name__
        return watched(work, device, self.stage, model, self.patcher.model_size(), *kind)

    def _on_rung(self, step: int | None, failure: Failure, rung: Rung, words: str) -> None:
        report_fault(failure, rung, device=self.failed_on, stage=self.stage, words=words, step=step)

    def carry_on(
        self,
        attempt: Callable[[], Answer],
        further: Mapping[Rung, RungAction] | None = None,
        *,
        on_failure: Callable[[Failure], Failure] | None = None,
        what: str = "",
        step: int | None = None,
        passing: tuple[type[BaseException], ...] = STOPS,
    ) -> Answer:
        """Does the work, up the ladder where it fails.

        Args:
            attempt: the work; it may be repeated.
            further: rungs that only this work has, or has in its own way.
            on_failure: told of each failure, and tells `on_failure` here.
            what: the work's name in errors, the stage's if none is given.
            step: the sampling step that it is.
            passing: errors that its caller meets.

        Raises:
            LadderExhaustedError: nothing was left to try.
        """
        actions: dict[Rung, RungAction] = {
            Rung.FREE: self.unload_others,
            Rung.ACCELERATOR: functools.partial(self.go_elsewhere, accelerator=True),
            Rung.CPU: functools.partial(self.go_elsewhere, accelerator=False),
            **(further or {}),
        }
        try:
            return climb(
                attempt,
                {rung: self._watched_action(rung, action) for rung, action in actions.items()},
                on_failure=on_failure or self.on_failure,
                on_rung=functools.partial(self._on_rung, step),
                what=what or self.stage.capitalize(),
                passing=passing,
            )
        except LadderExhaustedError as error:
            if lost_devices() or classify(error) is FaultKind.MISPLACED:
                execute_all_anew()
            if not is_lost(self.patcher.load_device):
                unload(self.patcher)
            raise

    def _watched_action(self, rung: Rung, action: RungAction) -> RungAction:
        return lambda failure: self.watched(lambda: action(failure), rung)

    def restore(self, notes: Sequence[str] = ()) -> None:
        """Leads the model back to where it was asked to be, unless that device is gone.

        Args:
            notes: what a user may like to know of the work.
        """
        ended = placement_of(self.patcher)
        self.patcher.set_attachments(RAN, ended and dataclasses.replace(ended, notes=(*ended.notes, *notes)))
        if self._asked is None or ended == self._asked or is_lost(self._asked.device.torch_device):
            return
        if answers(self.patcher.load_device, lambda: unload(self.patcher), "unload", self.patcher.model_size()):
            lead_to(self.patcher, self._asked)


def carry_on(
    patcher: Any,
    stage: str,
    attempt: Callable[[], Answer],
    further: Mapping[Rung, RungAction] | None = None,
    *,
    given: object,
) -> Answer:
    """Does a stage's work on a placed patcher as `Recovery.carry_on` does, and leads the patcher back afterwards.

    Args:
        given: what it is done on: other work on data of that size takes as long.
    """
    recovery = Recovery(patcher, stage)
    try:
        return recovery.carry_on(lambda: recovery.watched(attempt, *sizes_in(given)), further)
    finally:
        recovery.restore()


def _is_unreadable(patcher: Any) -> bool:
    """Whether a weight that is on the patcher's device cannot even be read from there."""
    weight = next((weight for weight in patcher.model.parameters() if weight.device == patcher.load_device), None)
    if weight is None or weight.device == HOST:
        return False
    try:
        weight.data.flatten()[:1].to(HOST)
    except RuntimeError as error:
        return classify(error) is not FaultKind.UNKNOWN
    return False


def asked_in_fp32(patcher: Any, failure: Failure) -> Placement:
    """What is asked of a placed patcher whose work is repeated in fp32."""
    placement = placement_of(patcher)
    assert placement is not None
    return placement.in_fp32(f"{failure.kind.value} in {placement.precision}, continued in fp32")


def placement_after(patcher: Any, fallback: Placement) -> Placement:
    """Where the last work on a patcher ended."""
    return patcher.get_attachment(RAN) or fallback


def check_finite(answer: object, patcher: Any, what: str) -> None:
    """Looks for NaN and infinity in an answer, and for where they come from.

    Args:
        answer: tensors, or a nest of them.
        patcher: the patcher whose model gave the answer.
        what: the answer's name ("The decoded picture").

    Raises:
        ValueError: the weights hold NaN, so that no repetition can help.
        NotFiniteError: the answer is not finite although the weights are.
    """
    if first_not_finite(("", tensor) for tensor in tensors_in(answer)) is None:
        return
    weight = first_not_finite(patcher.model.state_dict())
    if weight:
        unload(patcher)
        raise ValueError(f"{what} holds NaN because the weights do ({weight}): the file is damaged, download it again.")
    raise NotFiniteError(f"{what} holds NaN or infinity")
