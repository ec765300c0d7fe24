"""Runs one stage of a prompt, measures it, and reports where it runs: to the log, the job log and the node."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..machine.last_words import own_book
from ..memory.peak import peak_bytes, restart_peaks
from ..placement import Placement
from ..recovery.jobs import Fault, Stage, StageState, record_stage, subscribe
from .prompts import current_node_id, current_prompt_id

Output = TypeVar("Output")


class _Run:
    """A stage that runs: what is known of it so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._prompt_id = current_prompt_id()
        self._started = time.perf_counter()
        self.placement: Placement | None = None
        """Where it runs; None until that is decided."""

    def record(self, placement: Placement, state: StageState, rungs: tuple[str, ...] = ()) -> Stage:
        self.placement = placement
        stage = Stage(
            name=self.name,
            requested=placement.requested,
            effective=placement.device.id,
            precision=placement.precision,
            seconds=round(time.perf_counter() - self._started, 3),
            reason=placement.reason,
            notes=placement.notes,
            peak_bytes=peak_bytes(placement.device),
            state=state,
            node_id=current_node_id(),
            rungs=rungs,
        )
        record_stage(self._prompt_id, stage)
        if state == "running":
            own_book().note(placement.device.id, self.name, stage.node_id)
        return stage


_current: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("xpu_nodes_stage", default=None)


def current_stage() -> str:
    """The name of the stage that runs; empty outside of one."""
    run = _current.get()
    return "" if run is None else run.name


def decided(placement: Placement) -> None:
    """Shows where the stage that runs now runs; called as soon as that is decided, and again when it changes."""
    run = _current.get()
    if run is not None:
        run.record(placement, "running")


def _note_end(outer: _Run | None) -> None:
    if outer is None or outer.placement is None:
        own_book().note_end()
    else:
        own_book().note(outer.placement.device.id, outer.name, current_node_id())


def run_stage(name: str, work: Callable[[], tuple[Output, Placement]]) -> tuple[Output, dict[str, Any]]:
    """Runs the work of a node.

    Args:
        name: what the stage is called in reports ("sample").
        work: does it; answers its output and the placement it ran with.

    Returns:
        The output, and the node's UI: readable `text`, and under `xpu` the stage as data with the rungs taken.
    """
    faults: list[Fault] = []
    unsubscribe = subscribe(lambda _, record: faults.append(record) if isinstance(record, Fault) else None)
    restart_peaks()
    run = _Run(name)
    outer, token = _current.get(), _current.set(run)
    try:
        output, placement = work()
    except BaseException:
        if run.placement is not None:
            run.record(run.placement, "stopped")
        raise
    finally:
        _current.reset(token)
        unsubscribe()
        _note_end(outer)
    stage = run.record(placement, "done", tuple(fault.rung for fault in faults if fault.rung))
    if placement.differs:
        logging.warning("XPU Nodes, %s: %s.", name, placement.reason)
    for note in placement.notes:
        logging.info("XPU Nodes, %s: %s.", name, note)
    lines = [f"{name}: {placement}, {stage.seconds:.2f} s", *placement.notes, *map(str, faults)]
    return output, {"text": ["\n".join(lines)], "xpu": [dataclasses.asdict(stage)]}
