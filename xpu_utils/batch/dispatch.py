"""Gives every job to an idle worker, and loses none: a coroutine for each device, over Ray's answers."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Protocol

from ..workers.cluster import Place, ask_devices, end_worker, in_its_words, machines, start_worker
from ..workers.server import ServerLost
from ..workers.setup import CannotStart, Setup
from ..workers.worker import ATTEMPTS, Need, Outcome
from .jobs import Job
from .queue import Queue, Waiting
from .results import Results, file_names
from .workflow import BadJob, Workflow

LOOK_SECONDS = 5.0
"""How often machines that joined the cluster are looked for."""
KEPT_SECONDS = 60.0
"""How long a device may be kept by a command that has just ended, or was killed."""
START_ATTEMPTS = 3
WRITERS = 4
"""Results written at a time: a disk takes several syncs together."""
INPUT_FILES = 16
"""Input files that stay in Ray's object store for the next job."""


class Watcher(Protocol):
    """Whoever shows what happens."""

    def say(self, line: str) -> None:
        """Shows a line of its own."""

    def doing(self, place: Place, what: str) -> None:
        """Shows what a worker does now."""

    def advance(self) -> None:
        """Counts a job that is done, or given up."""


class Batch:
    """The jobs of one command on one cluster. `run` does them, once."""

    def __init__(
        self,
        ray: ModuleType,
        workflow: Workflow,
        results: Results,
        watcher: Watcher,
        *,
        setup: Setup,
        devices: tuple[str, ...] = (),
        pattern: str,
        width: int,
        silence_seconds: float,
    ) -> None:
        """Args:
        devices: ids of those that are used of each machine; all that it has where empty.
        pattern: of the results' names.
        width: digits of a job's number in them.
        silence_seconds: how long a worker may give no sign of life.
        """
        self._ray = ray
        self._workflow = workflow
        self._results = results
        self._watcher = watcher
        self._setup = setup
        self._devices = devices
        self._pattern = pattern
        self._width = width
        self._silence_seconds = silence_seconds
        self._models: dict[str, frozenset[Need]] = {}
        """What workers that can be given jobs have of what the jobs need, by their places."""
        self._running = 0
        self._starting: set[asyncio.Task[Any]] = set()
        """Tasks that may bring a worker."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._machines: set[str] = set()
        self._contents: collections.OrderedDict[str, Any] = collections.OrderedDict()
        self._writer = ThreadPoolExecutor(WRITERS, thread_name_prefix="batch-results")
        self.done = 0
        """Jobs whose results are written."""
        self.given_up: list[tuple[Job, str]] = []
        """Jobs that are not done, and why."""

    async def run(self, jobs: Sequence[Job]) -> None:
        """Does the jobs, but those for which no worker is.

        Raises:
            OSError: a result cannot be written; no job is begun after that.
        """
        self._queue = Queue(jobs)
        self._needs = frozenset[Need]().union(*(job.needs for job in jobs))
        self._changed = asyncio.Event()
        try:
            while len(self._queue) or self._running:
                self._look()
                if not self._tasks:
                    break
                await asyncio.wait(self._tasks, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in self._tasks if task.done()]:
                    self._tasks.remove(task)
                    task.result()
            for task in self._starting:
                task.cancel()
            self._notify()
            for end in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(end, Exception):  # not those cancelled here
                    raise end
        finally:
            self._writer.shutdown(cancel_futures=True)

    def _look(self) -> None:
        """Has the devices of machines that are new used."""
        for node_id, host in machines(self._ray).items():
            if node_id not in self._machines:
                self._machines.add(node_id)
                self._begin(self._use_machine(node_id, host))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    def _notify(self) -> None:
        """Wakes all that wait for a change: a job that came back, a worker that came or went."""
        self._changed.set()
        self._changed.clear()

    async def _use_machine(self, node_id: str, host: str) -> None:
        with self._about_to_start():
            try:
                devices = self._devices or await ask_devices(self._ray, node_id)
            except self._ray.exceptions.RayError as error:
                self._watcher.say(f"{host}: its devices are not known ({in_its_words(error)}), it is left out.")
                return
            for device in devices:
                self._begin(self._use_device(Place(node_id, host, device)))

    @contextlib.contextmanager
    def _about_to_start(self) -> Iterator[asyncio.Task[Any]]:
        """Has jobs that nobody can do wait for the worker that this task may bring."""
        task = asyncio.current_task()
        assert task is not None
        self._starting.add(task)
        try:
            yield task
        finally:
            self._starting.discard(task)
            self._notify()

    async def _use_device(self, place: Place) -> None:
        """Runs jobs on a device until there are none, with another worker where one ends."""
        failures = 0
        with self._about_to_start() as task:
            while failures < START_ATTEMPTS:
                self._watcher.doing(place, "starts")
                actor = None
                try:
                    actor = await self._engage(place)
                    await actor.start.remote()
                    models = self._needs - await actor.lacks.remote(self._needs) if self._needs else self._needs
                    failures = 0
                    self._models[str(place)] = models
                    self._starting.discard(task)
                    self._notify()
                    await self._work(place, actor, models)
                    return
                except CannotStart as error:
                    self._watcher.say(f"{place} is not used: {in_its_words(error)}")
                    return
                except self._ray.exceptions.RayError as error:
                    if place.node_id not in machines(self._ray):
                        self._watcher.say(f"{place.host} is gone: its jobs go to others.")
                        return
                    failures += 1
                    self._starting.add(task)
                    self._watcher.say(f"{place}: the worker ended ({in_its_words(error)}).")
                finally:
                    self._models.pop(str(place), None)
                    self._watcher.doing(place, "")
                    if actor is not None:
                        await end_worker(self._ray, actor)
            self._watcher.say(f"{place} is not used: its worker ended {failures} times before it could be given a job.")

    async def _engage(self, place: Place) -> Any:
        """An actor on the device, which a command that was just killed may keep for a moment.

        Raises:
            CannotStart: the device is kept by another command.
        """
        deadline = time.monotonic() + KEPT_SECONDS
        while True:
            try:
                return start_worker(self._ray, place, self._setup)
            except CannotStart:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(1)

    async def _work(self, place: Place, actor: Any, models: frozenset[Need]) -> None:
        """Has the worker do jobs until there are none.

        Raises:
            CannotStart: it has no server any more, and gets none.
            ray.exceptions.RayError: it ended.
        """
        loaded: frozenset[Need] = frozenset()
        recording: asyncio.Future[None] | None = None
        try:
            while (waiting := await self._next(place, models, loaded)) is not None:
                job, loaded = waiting.job, waiting.job.needs
                self._running += 1
                self._watcher.doing(place, str(job))
                try:
                    outcome: Outcome = await actor.run.remote(
                        self._workflow.prompt(job.settings),
                        tuple(job.files),
                        *(self._content(name, job) for name in job.files),
                        silence=self._silence_seconds,
                    )
                except CannotStart:
                    self._queue.again(waiting)  # no fault of the job's; others hear of it when this worker is gone
                    raise
                except ServerLost as error:
                    self._failed(waiting, place, str(error))
                    continue
                except self._ray.exceptions.RayError:
                    self._failed(waiting, place, "the worker ended")
                    raise
                finally:
                    self._running -= 1
                    self._watcher.doing(place, "")
                    if not self._running:
                        self._notify()
                if outcome.error:
                    self._failed(waiting, place, outcome.error)
                    continue
                if recording is not None:
                    await recording
                # The next job is given before this one is written.
                recording = asyncio.ensure_future(self._record(waiting, outcome))
        finally:  # a job's result counts, whatever became of the worker after it
            if recording is not None:
                await recording

    async def _next(self, place: Place, models: frozenset[Need], loaded: frozenset[Need]) -> Waiting | None:
        """The worker's next job, once there is one; None where there will be none."""
        while True:
            waiting = self._queue.take(str(place), models, loaded=loaded, others=self._models)
            if waiting is not None:
                return waiting
            if not self._starting:
                self._give_up_impossible()
            if not len(self._queue) and not self._running:
                self._notify()
                return None
            await self._changed.wait()

    def _give_up_impossible(self) -> None:
        for waiting, lacking in self._queue.take_impossible(self._models.values()):
            self._give_up(waiting, f"no worker has {', '.join(sorted({need.name for need in lacking}))}")

    def _failed(self, waiting: Waiting, place: Place, error: str) -> None:
        tried = Waiting(waiting.job, (*waiting.tried, (str(place), error)))
        if len(tried.tried) < ATTEMPTS:
            self._queue.again(tried)
            self._notify()
        else:
            self._give_up(tried, f"failed on {' and '.join(name for name, _ in tried.tried)}: {error}")

    def _give_up(self, waiting: Waiting, reason: str) -> None:
        self.given_up.append((waiting.job, reason))
        self._watcher.say(f"{waiting.job} is given up: {reason}")
        self._watcher.advance()
        self._results.give_up(waiting.job, reason, _said(waiting))

    async def _record(self, waiting: Waiting, outcome: Outcome) -> None:
        names = file_names(self._pattern, waiting.job, outcome.files, width=self._width)
        record = self._results.record
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writer, record, waiting.job, outcome, names, _said(waiting))
        except BadJob as error:
            self._give_up(waiting, str(error))
            return
        self.done += 1
        self._watcher.advance()

    def _content(self, name: str, job: Job) -> Any:
        """An input file in Ray's object store, put there once for jobs in succession."""
        if name not in self._contents:
            self._contents[name] = self._ray.put(job.files[name].read_bytes())
        self._contents.move_to_end(name)
        while len(self._contents) > max(INPUT_FILES, len(job.files)):
            self._contents.popitem(last=False)
        return self._contents[name]


def _said(waiting: Waiting) -> tuple[str, ...]:
    return tuple(f"{name}: {error}" for name, error in waiting.tried)
