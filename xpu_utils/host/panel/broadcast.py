"""Sends what happens to the open pages: telemetry while somebody watches, placements and faults as they come."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...recovery.jobs import Fault, Stage, subscribe
from ...telemetry.monitor import Monitor

WATCH_SECONDS = 30.0
"""A page that watches says so again within this time; otherwise sampling stops."""
INTERVAL_LIMITS_SECONDS = (0.5, 60.0)

Send = Callable[[str, dict[str, Any]], None]


Wait = Callable[[asyncio.Event, float], Awaitable[None]]


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Waits for an event, so many seconds at most."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


class Broadcaster:
    """Samples on a worker thread, at the shortest interval that a watching page asked for.

    Lives on the server's event loop; nothing here runs before the first page watches.
    """

    def __init__(
        self,
        make_monitor: Callable[[], Monitor],
        send: Send,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = wait_for,
    ) -> None:
        self._clock = clock
        self._wait = wait
        self._make_monitor = make_monitor
        self._monitor: Monitor | None = None
        self._send = send
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xpu-telemetry")
        self._task: asyncio.Task[None] | None = None
        self._watched: dict[float, float] = {}
        """Interval asked for -> until when it holds, by the monotonic clock."""
        self._asked = asyncio.Event()
        """Set when a page begins or goes on watching: it need not wait out another page's longer interval."""

    async def sample(self, *, fresh_for_seconds: float = INTERVAL_LIMITS_SECONDS[0]) -> dict[str, Any]:
        """One sample now, or the last one if it is that fresh."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._read, fresh_for_seconds)

    def watch(self, interval_seconds: float) -> None:
        """Keeps samples coming for a while, at this interval or a shorter one that another page asked for."""
        now = self._clock()
        # Longer intervals that were asked for earlier end before this one: they can never be the shortest again.
        shorter = {interval: until for interval, until in self._watched.items() if interval < interval_seconds}
        self._watched = {**shorter, interval_seconds: now + WATCH_SECONDS}
        self._asked.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep_sending())

    def _interval_seconds(self) -> float | None:
        """The shortest interval that holds; None where nobody watches any more."""
        now = self._clock()
        self._watched = {interval: until for interval, until in self._watched.items() if now < until}
        return min(self._watched, default=None)

    async def _keep_sending(self) -> None:
        while self._interval_seconds() is not None:
            began = self._clock()
            self._send("xpu.telemetry", await self.sample())
            await self._pause(began)

    async def _pause(self, began: float) -> None:
        """Waits until the interval has passed, looked at anew whenever a page asks."""
        while (interval := self._interval_seconds()) is not None:
            left_seconds = began + interval - self._clock()
            if left_seconds <= 0:
                return
            self._asked.clear()
            await self._wait(self._asked, left_seconds)

    def _read(self, fresh_for_seconds: float) -> dict[str, Any]:
        if self._monitor is None:
            self._monitor = self._make_monitor()
        return dataclasses.asdict(self._monitor.sample(fresh_for_seconds=fresh_for_seconds))


def send_jobs(send: Send) -> Callable[[], None]:
    """Sends every placement and fault from now on; the answer ends that."""

    def heard(prompt_id: str, record: Stage | Fault) -> None:
        if isinstance(record, Stage):
            send("xpu.placement", {"prompt_id": prompt_id, **dataclasses.asdict(record)})
        else:
            send("xpu.fault", {"prompt_id": prompt_id, **dataclasses.asdict(record), "text": str(record)})

    return subscribe(heard)
