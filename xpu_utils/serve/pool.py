"""The workers of an address: at least so many, at most so many, started and ended as prompts come and go."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import ModuleType
from typing import Any

from ..workers.cluster import Place, ask_devices, end_worker, in_its_words, machines, start_worker
from ..workers.setup import CannotStart, Setup
from ..workers.worker import Outcome, Ready

LOOK_SECONDS = 10.0
"""How often machines that joined or left the cluster are looked for."""
REST_SECONDS = 60.0
"""How long a device is left alone after a worker could not be started on it."""
ASK_SECONDS = 10.0


@dataclasses.dataclass(eq=False)
class Member:
    """A worker, or one that starts."""

    place: Place
    actor: Any = None
    ready: Ready | None = None
    """None until it can be given prompts."""
    prompt_id: str = ""
    """Of the prompt that it runs."""
    idle_since: float = 0.0


class Pool:
    """Workers on the devices of a cluster. Of one event loop."""

    def __init__(
        self,
        ray: ModuleType,
        setup: Setup,
        say: Callable[[str], None],
        *,
        least: int,
        most: int,
        idle_seconds: float,
        devices: tuple[str, ...] = (),
        silence_seconds: float,
    ) -> None:
        """Args:
        say: is given a line when a worker comes or goes.
        idle_seconds: how long a worker beyond the least number is kept without work.
        most: workers; 0 for as many as there are devices.
        devices: ids of those that are used of each machine; all that it has where empty.
        silence_seconds: how long a worker may give no sign of life in a prompt.
        """
        self._ray = ray
        self._setup = setup
        self._say = say
        self._least = least
        self._most = most
        self._idle_seconds = idle_seconds
        self._devices = devices
        self._silence_seconds = silence_seconds
        self._places: dict[str, list[Place]] = {}
        """Of each machine."""
        self._members: dict[Place, Member] = {}
        self._resting: dict[Place, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self.problem = "None has started yet."
        """Why no worker is ready, where none is."""
        self.demand: Callable[[], int] = lambda: 0
        """How many prompts wait or run."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a worker can be given prompts, or has gone."""

    async def keep(self) -> None:
        """Keeps as many workers as are wanted, until it is cancelled."""
        self._begin(self._watch())
        try:
            while True:
                await self._look()
                self._start_wanted()
                self._end_unwanted()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
                self._wake.clear()
        finally:
            for task in self._tasks:
                task.cancel()
            actors = [member.actor for member in self._members.values() if member.actor]
            await asyncio.gather(*(end_worker(self._ray, actor) for actor in actors))

    def wake(self) -> None:
        """Has it look now: there is more or less to do."""
        self._wake.set()

    def ready(self) -> list[Member]:
        return [member for member in self._members.values() if member.ready]

    def idle(self) -> list[Member]:
        """Those that can be given a prompt, the one that has waited for the shortest time first: it may be warm."""
        waiting = [member for member in self.ready() if not member.prompt_id]
        return sorted(waiting, key=lambda member: -member.idle_since)

    def busy(self, member: Member, prompt_id: str) -> None:
        member.prompt_id = prompt_id

    def free(self, member: Member) -> None:
        member.prompt_id, member.idle_since = "", time.monotonic()
        self.wake()

    def drop(self, member: Member, problem: str) -> None:
        """Gives up a worker that failed; another one takes its place."""
        self.problem = f"{member.place}: {problem}"
        self._say(self.problem)
        if self._members.get(member.place) is member:
            self._end(member)
        self.on_change()
        self.wake()

    async def run(
        self, member: Member, nodes: Mapping[str, Any], extra: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> AsyncIterator[str | bytes | Outcome]:
        """What a worker says while it runs a prompt, then the outcome."""
        said = member.actor.run_aloud.options(num_returns="streaming").remote(
            nodes, tuple(files), *files.values(), silence=self._silence_seconds, extra=extra
        )
        async for reference in said:
            yield await reference

    async def refusal(
        self, member: Member, nodes: Mapping[str, Any], extra: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> Mapping[str, Any]:
        """What a worker's ComfyUI would answer to a prompt that it does not take; empty where it does not say so."""
        asked = member.actor.check.remote(nodes, tuple(files), *files.values(), extra=extra)
        try:
            said: Mapping[str, Any] = await asyncio.wait_for(_answer(asked), ASK_SECONDS)
        except (self._ray.exceptions.RayError, asyncio.TimeoutError):
            return {}
        return said

    async def ask(self, member: Member, path: str) -> Any:
        """What a worker's ComfyUI answers to a GET; None where it does not."""
        try:
            return await asyncio.wait_for(_answer(member.actor.get.remote(path)), ASK_SECONDS)
        except (self._ray.exceptions.RayError, asyncio.TimeoutError):
            return None

    async def interrupt(self, member: Member) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError, asyncio.TimeoutError):
            await asyncio.wait_for(_answer(member.actor.interrupt.remote(member.prompt_id)), ASK_SECONDS)

    async def _look(self) -> None:
        """Learns the devices of machines that joined, and forgets those of machines that left."""
        names = machines(self._ray)
        for node_id in self._places.keys() - names.keys():
            del self._places[node_id]
        for node_id in names.keys() - self._places.keys():
            with contextlib.suppress(self._ray.exceptions.RayError, asyncio.TimeoutError):  # it left, or is busy
                devices = self._devices or await self._ask_devices(node_id)
                self._places[node_id] = [Place(node_id, names[node_id], device) for device in devices]
        for member in list(self._members.values()):
            if member.ready and member.place.node_id not in names and not member.prompt_id:
                self.drop(member, "its machine is gone.")

    async def _watch(self) -> None:
        """Has idle workers whose ComfyUI ended start another; those that are busy say so themselves."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.gather(*map(self._check, self.idle()))

    async def _check(self, member: Member) -> None:
        try:
            alive, problem = await _answer(member.actor.alive.remote()), "its ComfyUI ended."
        except self._ray.exceptions.RayError as error:
            alive, problem = None, in_its_words(error)
        if alive or member.prompt_id or self._members.get(member.place) is not member:
            return
        if alive is None:
            self.drop(member, problem)
            return
        member.ready, self.problem = None, f"{member.place}: {problem}"
        self._say(self.problem)
        self._begin(self._start(member))

    async def _ask_devices(self, node_id: str) -> Any:
        return await asyncio.wait_for(_answer(ask_devices(self._ray, node_id)), REST_SECONDS)

    def _start_wanted(self) -> None:
        now = time.monotonic()
        all_places = [place for of_a_machine in self._places.values() for place in of_a_machine]
        wanted = min(self._most or len(all_places), max(self._least, self.demand()))
        free = [place for place in all_places if place not in self._members and self._resting.get(place, 0) < now]
        for place in free[: max(0, wanted - len(self._members))]:
            member = self._members[place] = Member(place)
            self._begin(self._start(member))

    def _end_unwanted(self) -> None:
        spare = len(self._members) - max(self._least, self.demand())
        long_idle = [member for member in self.idle() if time.monotonic() - member.idle_since > self._idle_seconds]
        for member in long_idle[::-1][: max(0, spare)]:
            self._say(f"{member.place}: ended, it had nothing to do.")
            self._end(member)

    async def _start(self, member: Member) -> None:
        try:
            member.actor = member.actor or await asyncio.to_thread(start_worker, self._ray, member.place, self._setup)
            ready: Ready = await member.actor.start.remote()
        except (CannotStart, self._ray.exceptions.RayError) as error:
            self._resting[member.place] = time.monotonic() + REST_SECONDS
            self.drop(member, in_its_words(error))
            return
        member.ready, member.idle_since = ready, time.monotonic()
        self._say(f"{member.place}: ready.")
        self.on_change()

    def _end(self, member: Member) -> None:
        del self._members[member.place]
        if member.actor:
            self._begin(end_worker(self._ray, member.actor))

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _answer(reference: Any) -> Any:
    return await reference
