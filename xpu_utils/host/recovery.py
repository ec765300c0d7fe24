"""What is done with a placed model after a failure: memory is freed, or the model goes on elsewhere."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..checkpoints import first_not_finite, tensors_in
from ..faults import FaultKind, NotFiniteError
from ..jobs import Fault, record_fault
from ..ladder import Failure, LadderExhaustedError, Rung, RungAction, climb
from ..placement import Placement
from .health import lead_to, lose, placement_of
from .moving import another_accelerator, cpu, free_others, move, unload
from .prompts import current_prompt_id
from .weights import is_lost, keep_host_copy, recover

RAN = "xpu_nodes.ran"
"""Attachment key under which a patcher carries the placement that its last work ended with."""

Answer = TypeVar("Answer")


def report(failure: Failure, *, device: str, stage: str, words: str, step: int | None = None) -> None:
    """Tells the log, the job log and, through that, the node what failed and how it goes on."""
    fault = Fault(failure.kind.value, device, stage, rung=words, step=step, message=failure.message)
    logging.warning("XPU Nodes: %s.", fault)
    record_fault(current_prompt_id(), fault)


class Recovery:
    """One stage's work on one placed patcher: its rungs, its reports, and the way back afterwards."""

    def __init__(self, patcher: Any, stage: str) -> None:
        self.patcher = patcher
        self.stage = stage
        self.failed_on = str(patcher.load_device)
        """The device of the last failure."""
        self._asked = placement_of(patcher)

    def free(self, failure: Failure, keep: Sequence[Any] = ()) -> str | None:
        """The rung that unloads every other model."""
        return free_others(self.patcher.load_device, [self.patcher, *keep])

    def move(self, failure: Failure, *, accelerator: bool) -> str | None:
        """The rungs that go on another device; a lost device has led the model to one already."""
        current, placement = self.patcher.load_device, placement_of(self.patcher)
        if failure.kind is FaultKind.DEVICE_LOST and placement is not None:
            device = placement.device if (placement.device.type != "cpu") == accelerator else None
        else:
            device = another_accelerator(current, 1.2 * self.patcher.model_size()) if accelerator else cpu()
            if device is not None and device.torch_device == current:
                device = None
        if device is None:
            return None
        move(self.patcher, device, f"{failure.kind.value} on {self.failed_on}, continued on {device.id}")
        return device.id

    def on_failure(self, failure: Failure) -> None:
        """Notes where it failed; a device that is lost is left for good."""
        self.failed_on = str(self.patcher.load_device)
        if failure.kind is FaultKind.DEVICE_LOST:
            lose(self.patcher.load_device, failure.error)

    def on_rung(self, failure: Failure, rung: Rung, words: str, step: int | None = None) -> None:
        """Reports a rung that was taken."""
        report(failure, device=self.failed_on, stage=self.stage, words=words, step=step)

    def restore(self) -> None:
        """Leads the model back to where it was asked to be, unless that device is gone."""
        ended = placement_of(self.patcher)
        self.patcher.set_attachments(RAN, ended)
        if self._asked is None or ended is self._asked or is_lost(self._asked.device.torch_device):
            return
        unload(self.patcher)
        lead_to(self.patcher, self._asked.device, self._asked)


def carry_on(
    patcher: Any, stage: str, attempt: Callable[[], Answer], further: Mapping[Rung, RungAction] | None = None
) -> Answer:
    """Does a stage's work on a placed patcher, up the ladder where it fails.

    Args:
        patcher: the placed patcher whose model does the work.
        stage: the stage's name in reports.
        attempt: the work; it may be repeated.
        further: rungs that only this work has.

    Raises:
        LadderExhaustedError: nothing was left to try.
    """
    recover(patcher)
    keep_host_copy(patcher)
    recovery = Recovery(patcher, stage)
    actions: dict[Rung, RungAction] = {
        Rung.FREE: recovery.free,
        Rung.ACCELERATOR: functools.partial(recovery.move, accelerator=True),
        Rung.CPU: functools.partial(recovery.move, accelerator=False),
        **(further or {}),
    }
    try:
        return climb(
            attempt, actions, on_failure=recovery.on_failure, on_rung=recovery.on_rung, what=stage.capitalize()
        )
    except LadderExhaustedError:
        if not is_lost(patcher.load_device):
            unload(patcher)
        raise
    finally:
        recovery.restore()


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
