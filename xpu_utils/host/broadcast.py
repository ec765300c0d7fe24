"""Sends what happens to the open pages: telemetry while somebody watches, placements and faults as they come."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..jobs import Fault, Stage, subscribe
from ..telemetry.monitor import Monitor
from ..telemetry.readings import Sample

WATCH_SECONDS = 30.0
"""A page that watches says so again within this time; otherwise sampling stops."""
INTERVAL_LIMITS_SECONDS = (0.5, 60.0)

Send = Callable[[str, dict[str, Any]], None]


def sample_data(sample: Sample) -> dict[str, Any]:
    """A sample as plain data, with what is free and what others use spelled out."""
    data = dataclasses.asdict(sample)
    for device, entry in zip(sample.devices, data["devices"], strict=True):
        if device.memory is not None:
            entry["memory"] |= {"free_bytes": device.memory.free_bytes, "others_bytes": device.memory.others_bytes}
    return data


class Broadcaster:
    """Samples on a worker thread, at the shortest interval that a watching page asked for.

    Lives on the server's event loop; nothing here runs before the first page watches.
    """

    def __init__(self, make_monitor: Callable[[], Monitor], send: Send) -> None:
        self._make_monitor = make_monitor
        self._monitor: Monitor | None = None
        self._send = send
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xpu-telemetry")
        self._task: asyncio.Task[None] | None = None
        self._watched_until = 0.0
        self._hurry = asyncio.Event()
        """Set when a page begins or goes on watching: it need not wait out another page's longer interval."""
        self._interval_seconds = INTERVAL_LIMITS_SECONDS[1]

    async def sample(self, *, fresh_for_seconds: float = INTERVAL_LIMITS_SECONDS[0]) -> dict[str, Any]:
        """One sample now, or the last one if it is that fresh."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._read, fresh_for_seconds)

    def watch(self, interval_seconds: float) -> None:
        """Keeps samples coming for a while, at this interval or a shorter one that another page asked for."""
        now = time.monotonic()
        watched = now < self._watched_until
        self._interval_seconds = min(interval_seconds, self._interval_seconds) if watched else interval_seconds
        self._watched_until = now + WATCH_SECONDS
        self._hurry.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep_sending())

    async def _keep_sending(self) -> None:
        while time.monotonic() < self._watched_until:
            self._send("xpu.telemetry", await self.sample())
            self._hurry.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._interval_seconds)

    def _read(self, fresh_for_seconds: float) -> dict[str, Any]:
        if self._monitor is None:
            self._monitor = self._make_monitor()
        return sample_data(self._monitor.sample(fresh_for_seconds=fresh_for_seconds))


def send_jobs(send: Send) -> Callable[[], None]:
    """Sends every placement and fault from now on; the answer ends that."""

    def heard(prompt_id: str, record: Stage | Fault) -> None:
        if isinstance(record, Stage):
            send("xpu.placement", {"prompt_id": prompt_id, **dataclasses.asdict(record)})
        else:
            send("xpu.fault", {"prompt_id": prompt_id, **dataclasses.asdict(record), "text": str(record)})

    return subscribe(heard)
