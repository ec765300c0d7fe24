"""What each prompt did on which device: stages, faults and the rungs taken, kept for the panel and the routes.

The runner calls `record_stage` and `record_fault`; whoever wants to hear of them live calls `subscribe`.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable
from typing import Literal

JOB_LIMIT = 50
"""Prompts remembered; the oldest is forgotten first."""
RECORD_LIMIT = 100
"""Stages, and faults, remembered for one prompt; the oldest is forgotten first."""


StageState = Literal["running", "done", "stopped"]
"""A stage that is cancelled or fails is stopped."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a prompt's work ("sample", "vae decode") and where it ran."""

    name: str
    requested: str
    """Device string of the workflow: "auto", "xpu:1"."""
    effective: str
    """Id of the device it ran on."""
    precision: str
    seconds: float
    reason: str = ""
    """Why something differs from what was asked for; empty where nothing does."""
    notes: tuple[str, ...] = ()
    """What a user may like to know although nothing differs."""
    peak_bytes: int | None = None
    """Most device memory allocated during the stage, where it was measured."""
    state: StageState = "done"
    node_id: str = ""
    """The node that it was a part of; empty outside of one."""
    rungs: tuple[str, ...] = ()
    """What was done about failures on the way ("395 MiB freed"), once it is done."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """A failure that was met, and what was done about it."""

    kind: str
    """Class of the fault: "out of memory", "device lost", ..."""
    device: str
    stage: str
    rung: str = ""
    """What was done to carry on ("45% of the weights on the device"); empty where the job failed."""
    rung_name: str = ""
    """The name of that rung ("part of the weights in main memory"), the same for every such fault."""
    step: int | None = None
    """Sampling step, counted from 1, where there is one."""
    message: str = ""
    """The error in its own words."""
    node_id: str = ""
    """The node that was executed; empty outside of one."""
    hangs: bool = False
    """It goes on, and only a restart of ComfyUI ends it."""

    def __str__(self) -> str:
        where = f"at step {self.step}" if self.step is not None else f"in {self.stage}"
        end = f"continued with {self.rung}" if self.rung else "the job failed"
        return f"{self.device}: {self.kind} {where}: {'only a restart of ComfyUI ends it' if self.hangs else end}"


@dataclasses.dataclass(frozen=True)
class Job:
    """What is known of one prompt."""

    prompt_id: str
    started_at: float
    """Seconds since the epoch at the first record."""
    stages: tuple[Stage, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def seconds(self) -> float:
        """Time spent in the recorded stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def rungs(self) -> dict[str, int]:
        """How often each rung was taken, by its name."""
        return dict(collections.Counter(fault.rung_name for fault in self.faults if fault.rung_name))

    @property
    def peak_bytes(self) -> int | None:
        """The largest peak of the recorded stages."""
        return max((stage.peak_bytes for stage in self.stages if stage.peak_bytes is not None), default=None)


Listener = Callable[[str, "Stage | Fault"], None]
"""Called with the prompt id and the record, on the thread that recorded it; must not block or raise."""


class JobLog:
    """A bounded record of jobs that any thread may write and read."""

    def __init__(self, *, job_limit: int = JOB_LIMIT, record_limit: int = RECORD_LIMIT) -> None:
        self._job_limit = job_limit
        self._record_limit = record_limit
        self._jobs: collections.OrderedDict[str, Job] = collections.OrderedDict()
        self._listeners: tuple[Listener, ...] = ()
        self._lock = threading.Lock()

    def record_stage(self, prompt_id: str, stage: Stage) -> None:
        """Adds a stage to the prompt's job, in place of what it was while it ran, and tells the listeners."""
        with self._lock:
            job = self._job(prompt_id)
            ran = (stage.name, stage.node_id, "running")
            others = [other for other in job.stages if (other.name, other.node_id, other.state) != ran]
            stages = (*others, stage)[-self._record_limit :]
            self._jobs[prompt_id] = dataclasses.replace(job, stages=stages)
        self._tell(prompt_id, stage)

    def record_fault(self, prompt_id: str, fault: Fault) -> None:
        """Adds a fault to the prompt's job and tells the listeners."""
        with self._lock:
            job = self._job(prompt_id)
            faults = (*job.faults, fault)[-self._record_limit :]
            self._jobs[prompt_id] = dataclasses.replace(job, faults=faults)
        self._tell(prompt_id, fault)

    def jobs(self, *, limit: int = JOB_LIMIT) -> tuple[Job, ...]:
        """The remembered jobs, newest first, at most so many."""
        with self._lock:
            return tuple(itertools.islice(reversed(self._jobs.values()), limit))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Has every later record sent to the listener; the answer ends that."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return unsubscribe

    def _job(self, prompt_id: str) -> Job:
        if prompt_id not in self._jobs:
            self._jobs[prompt_id] = Job(prompt_id, time.time())
            while len(self._jobs) > self._job_limit:
                self._jobs.popitem(last=False)
        return self._jobs[prompt_id]

    def _tell(self, prompt_id: str, record: Stage | Fault) -> None:
        for listener in self._listeners:
            listener(prompt_id, record)


LOG = JobLog()
"""The one log of this process."""

record_stage = LOG.record_stage
record_fault = LOG.record_fault
subscribe = LOG.subscribe
jobs = LOG.jobs
