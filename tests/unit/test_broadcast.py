"""Samples are sent while a page watches, at the shortest interval asked for, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from xpu_utils.host.panel.broadcast import WATCH_SECONDS, Broadcaster, send_jobs, wait_for
from xpu_utils.recovery.jobs import LOG, Fault, Stage
from xpu_utils.telemetry.monitor import Monitor


class Recorder:
    """Takes what would be sent to the pages."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, data: dict[str, Any]) -> None:
        self.sent.append((event, data))


class Pages:
    """A broadcaster in a time of its own, which passes only while it waits."""

    def __init__(self, meanwhile: Callable[[Pages], bool] = lambda pages: False) -> None:
        """`meanwhile` is what pages do when a wait begins; it answers whether one asked, which ends the wait."""
        self.now = 0.0
        self.waits: list[float] = []
        self.sent_at: list[float] = []
        self.monitors = 0
        self._meanwhile = meanwhile
        self.broadcaster = Broadcaster(self._monitor, self._send, clock=lambda: self.now, wait=self._wait)

    def _monitor(self) -> Monitor:
        self.monitors += 1
        return Monitor([], lambda device: pytest.fail("there is no device"))

    def _send(self, event: str, data: dict[str, Any]) -> None:
        self.sent_at.append(self.now)

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        self.waits.append(seconds)
        if not self._meanwhile(self):
            self.now += seconds

    def watch(self, *intervals_seconds: float) -> None:
        """Pages begin to watch; returns when nobody watches any more."""

        async def until_nobody_does() -> None:
            assert self.monitors == 0, "nothing is opened before the first page watches"
            for interval_seconds in intervals_seconds:
                self.broadcaster.watch(interval_seconds)
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

        asyncio.run(until_nobody_does())


def test_sampling_ends_when_no_page_has_asked_for_a_while() -> None:
    pages = Pages()
    pages.watch(10.0)
    assert pages.sent_at == [0.0, 10.0, 20.0]
    assert pages.now == WATCH_SECONDS
    assert pages.monitors == 1


def test_a_second_page_with_a_shorter_interval_need_not_wait_out_the_first() -> None:
    def second_page(pages: Pages) -> bool:
        if len(pages.waits) == 1:
            pages.now = 2.0
            pages.broadcaster.watch(10.0)
        return len(pages.waits) == 1

    pages = Pages(second_page)
    pages.watch(60.0)
    assert pages.waits[:3] == [60.0, 8.0, 10.0]
    assert pages.sent_at[:3] == [0.0, 10.0, 20.0]


def test_the_interval_can_be_raised_while_pages_watch() -> None:
    def goes_on_watching(pages: Pages) -> bool:
        pages.now += min(pages.waits[-1], 5.0)
        if pages.now < 200.0:
            pages.broadcaster.watch(60.0)
        return True

    pages = Pages(goes_on_watching)
    pages.watch(10.0)
    assert pages.sent_at == [0.0, 10.0, 20.0, 80.0, 140.0, 200.0], "going on watching is no reason to sample sooner"


def test_a_page_that_asks_ends_a_wait() -> None:
    async def ask() -> None:
        event = asyncio.Event()
        waiting = asyncio.ensure_future(wait_for(event, 3600.0))
        await asyncio.sleep(0)
        event.set()
        await waiting
        await wait_for(asyncio.Event(), 0.0)

    asyncio.run(ask())


def test_placements_and_faults_are_sent_as_they_come() -> None:
    recorder = Recorder()
    stop = send_jobs(recorder)
    LOG.record_stage("p", Stage("sample", "xpu:1", "xpu:0", "bf16", 1.0))
    LOG.record_fault("p", Fault("out of memory", "xpu:0", "sample", rung="cpu", step=3))
    stop()
    (placement, stage), (fault, told) = recorder.sent
    assert (placement, stage["prompt_id"], stage["effective"]) == ("xpu.placement", "p", "xpu:0")
    assert (fault, told["text"]) == ("xpu.fault", "xpu:0: out of memory at step 3: continued with cpu")
