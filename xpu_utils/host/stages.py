"""Runs one stage of a prompt, measures it, and reports where it ran: to the log, the job log and the node."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..jobs import Fault, Stage, record_stage, subscribe
from ..peak import peak_bytes, restart_peaks
from ..placement import Placement
from .prompts import current_prompt_id

Output = TypeVar("Output")


def run_stage(name: str, work: Callable[[], tuple[Output, Placement]]) -> tuple[Output, dict[str, Any]]:
    """Runs the work of a node.

    Args:
        name: what the stage is called in reports ("sample").
        work: does it; answers its output and the placement it ran with.

    Returns:
        The output, and the node's UI: readable `text`, and the stage as data under `xpu`.
    """
    faults: list[Fault] = []
    unsubscribe = subscribe(lambda _, record: faults.append(record) if isinstance(record, Fault) else None)
    restart_peaks()
    started = time.perf_counter()
    try:
        output, placement = work()
    finally:
        unsubscribe()
    stage = Stage(
        name=name,
        requested=placement.requested,
        effective=placement.device.id,
        precision=placement.precision,
        seconds=round(time.perf_counter() - started, 3),
        reason=placement.reason,
        peak_bytes=peak_bytes(placement.device),
    )
    if placement.differs:
        logging.warning("XPU Nodes, %s: %s.", name, placement.reason)
    record_stage(current_prompt_id(), stage)
    lines = [f"{name}: {placement}, {stage.seconds:.2f} s", *map(str, faults)]
    return output, {"text": ["\n".join(lines)], "xpu": [dataclasses.asdict(stage)]}
