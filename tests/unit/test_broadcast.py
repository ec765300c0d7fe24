"""Samples are sent while a page watches, at the shortest interval asked for, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from xpu_utils.host.panel import broadcast
from xpu_utils.host.panel.broadcast import Broadcaster, send_jobs
from xpu_utils.memory.free import read_memory
from xpu_utils.recovery.jobs import LOG, Fault, Stage
from xpu_utils.telemetry.monitor import Monitor


class Recorder:
    """Takes what would be sent to the pages."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, data: dict[str, Any]) -> None:
        self.sent.append((event, data))


def test_sampling_ends_when_no_page_has_asked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "WATCH_SECONDS", 0.3)
    recorder, made = Recorder(), []

    def make() -> Monitor:
        made.append(1)
        return Monitor([], read_memory)

    async def watch() -> tuple[int, int]:
        broadcaster = Broadcaster(make, recorder)
        assert made == []  # nothing is opened before the first page watches
        broadcaster.watch(0.05)
        await asyncio.sleep(0.6)
        during = len(recorder.sent)
        await asyncio.sleep(0.3)
        return during, len(recorder.sent)

    during, after = asyncio.run(watch())
    assert during >= 2
    assert after == during
    assert made == [1]


def test_a_second_page_with_a_shorter_interval_need_not_wait_out_the_first() -> None:
    recorder = Recorder()

    async def watch() -> int:
        broadcaster = Broadcaster(lambda: Monitor([], read_memory), recorder)
        broadcaster.watch(60.0)
        await asyncio.sleep(0.2)
        broadcaster.watch(0.05)
        broadcaster.watch(60.0)
        await asyncio.sleep(0.5)
        return len(recorder.sent)

    assert asyncio.run(watch()) >= 4


def test_the_interval_can_be_raised_while_pages_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "WATCH_SECONDS", 0.3)
    recorder = Recorder()

    async def watch() -> tuple[int, int]:
        broadcaster = Broadcaster(lambda: Monitor([], read_memory), recorder)
        broadcaster.watch(0.05)
        await asyncio.sleep(0.1)
        for _ in range(5):  # the page goes on watching, at the longer interval
            broadcaster.watch(60.0)
            await asyncio.sleep(0.1)
        raised = len(recorder.sent)
        for _ in range(5):
            broadcaster.watch(60.0)
            await asyncio.sleep(0.1)
        return raised, len(recorder.sent)

    raised, after = asyncio.run(watch())
    assert after == raised, "going on watching is no reason to sample before the interval has passed"


def test_placements_and_faults_are_sent_as_they_come() -> None:
    recorder = Recorder()
    stop = send_jobs(recorder)
    LOG.record_stage("p", Stage("sample", "xpu:1", "xpu:0", "bf16", 1.0))
    LOG.record_fault("p", Fault("out of memory", "xpu:0", "sample", rung="cpu", step=3))
    stop()
    (placement, stage), (fault, told) = recorder.sent
    assert (placement, stage["prompt_id"], stage["effective"]) == ("xpu.placement", "p", "xpu:0")
    assert (fault, told["text"]) == ("xpu.fault", "xpu:0: out of memory at step 3: continued with cpu")
