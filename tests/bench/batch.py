"""`python -m tests.bench batch`: what handing out costs, unequal cards, waiting jobs in memory, 1,000 workers."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil

from tests.harness.many_workers import batch, recorded, simulated_comfyui
from tests.harness.workflows import TRIFLE, Workflow, node, text_to_image
from xpu_utils.batch import dispatch, workflow
from xpu_utils.batch.jobs import make_jobs
from xpu_utils.batch.queue import Queue
from xpu_utils.batch.results import opened
from xpu_utils.serve.clients import Clients
from xpu_utils.serve.gateway import Gateway
from xpu_utils.serve.journal import Journal
from xpu_utils.serve.requests import wanted
from xpu_utils.serve.store import Store
from xpu_utils.workers.setup import Setup
from xpu_utils.workers.worker import File, Outcome, Ready, Report

TINY_JOBS = 200
UNEQUAL_JOBS = 60
SECONDS = 0.3
"""Of a job on the faster of two unequal cards."""
WAITING_JOBS = 10_000
CALL_SECONDS = 0.00075
"""What a call of a Ray actor costs its caller, measured on two cores."""
PICTURE_BYTES = 1_500_000
"""A PNG of 1024 x 1024 pixels."""
_PICTURE = bytes(PICTURE_BYTES)
SIMULATED = ((10, 1.0), (100, 1.0), (100, 10.0), (1000, 10.0), (1000, 30.0))
"""Workers and seconds of a job."""
JOBS_EACH = 2


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("batch", help="what handing out jobs costs")
    parser.add_argument("--only", choices=MEASUREMENTS, help="one of its parts")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    lines = []
    for name, measure in MEASUREMENTS.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                lines += measure(Path(folder))
    return 0, "\n".join(lines)


def handing_out(folder: Path) -> Iterator[str]:
    """From the end of a worker's job to the next one's being queued on its ComfyUI, over tiny jobs on two workers."""
    lines = _batch(folder, {**TRIFLE}, "picture.color", TINY_JOBS, "xpu:0,xpu:1")
    gaps_ms = []
    for worker in {line["worker"] for line in lines}:
        own = sorted((line["began_at"], line["seconds"]) for line in lines if line["worker"] == worker)
        gaps_ms += [1e3 * (b - a - seconds) for (a, seconds), (b, _) in itertools.pairwise(own)]
    median, worst = statistics.median(gaps_ms), sorted(gaps_ms)[int(len(gaps_ms) * 0.99)]
    yield f"Idle to next prompt over {len(lines)} jobs: median {median:.1f} ms, 99 of 100 within {worst:.1f} ms"


def unequal(folder: Path) -> Iterator[str]:
    """Two cards, one twice as fast, together and each alone."""
    rates = {}
    for devices in ("xpu:0", "xpu:1", "xpu:0,xpu:1"):
        graph: Workflow = {**TRIFLE, "time": node("TestTakeTime", image=["picture", 0], seconds=SECONDS)}
        graph["shown"] = node("PreviewImage", images=["time", 0])
        lines = _batch(folder / devices, graph, "picture.color", UNEQUAL_JOBS, devices)
        began = min(line["began_at"] for line in lines)
        rates[devices] = len(lines) / (max(line["began_at"] + line["seconds"] for line in lines) - began)
    share = rates["xpu:0,xpu:1"] / (rates["xpu:0"] + rates["xpu:1"])
    yield f"Unequal cards, 2:1, {UNEQUAL_JOBS} jobs: {share:.3f} of the sum of both alone ({rates} jobs/s)"


def waiting(folder: Path) -> Iterator[str]:
    """The memory of jobs that wait, each with a text of its own."""
    graph = workflow.Workflow(text_to_image())
    rows = [{"positive.text": f"a lighthouse, number {number}, " + "in oil, " * 20} for number in range(WAITING_JOBS)]
    process = psutil.Process()
    before, began = process.memory_info().rss, time.perf_counter()
    jobs = make_jobs(graph, settings={}, rows=rows, seeds=[1])
    queue = Queue(jobs)
    grown, seconds = process.memory_info().rss - before, time.perf_counter() - began
    yield f"{len(queue):,} waiting jobs: {grown / 1e6:.0f} MB, made in {seconds:.1f} s"


def queued(folder: Path) -> Iterator[str]:
    """What one address takes for a prompt, by how many wait, and in memory; each is written to disk."""
    none: list[Any] = []
    pool: Any = SimpleNamespace(ready=lambda: none, idle=lambda: none, wake=lambda: None)
    journal = Journal(folder / "queue", print)
    body = json.dumps({"prompt": text_to_image(), "extra_data": {"extra_pnginfo": {"workflow": "x" * 10_000}}}).encode()

    async def measure() -> str:
        address = Gateway(ModuleType("ray"), pool, Store(folder), Clients(), journal, print)
        process = psutil.Process()
        before, times_ms = process.memory_info().rss, []
        for _ in range(WAITING_JOBS):
            began = time.perf_counter()
            await address.submit(wanted(body))
            times_ms.append(1e3 * (time.perf_counter() - began))
        grown = process.memory_info().rss - before
        began = time.perf_counter()
        size = len(address.queue())
        listing_ms = 1e3 * (time.perf_counter() - began)
        first, last = (statistics.median(part) for part in (times_ms[:500], times_ms[-500:]))
        return (
            f"Prompts of {len(body) / 1e3:.0f} KB, {WAITING_JOBS:,} waiting: {grown / 1e6:.0f} MB; to take one, median"
            f" of the first 500 {first:.2f} ms, of the last {last:.2f};"
            f" to list {size / 1e6:.0f} MB, {listing_ms:.0f} ms"
        )

    yield asyncio.run(measure())


def _batch(folder: Path, graph: Workflow, name: str, jobs: int, devices: str) -> list[dict[str, Any]]:
    """A batch of the command's on simulated devices, one job for each value of an input; answers its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workflow.json").write_text(json.dumps(graph))
    (folder / "jobs.jsonl").write_text("\n".join(json.dumps({name: number}) for number in range(jobs)))
    comfyui, out = simulated_comfyui(folder / "comfyui"), folder / "out"
    options = ("--table", str(folder / "jobs.jsonl"), "--out", str(out), "--comfyui", str(comfyui))
    process = batch(folder / "workflow.json", *options, "--devices", devices)
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(said)
    return recorded(out)


class _Actor:
    """A worker that only takes time; calling it costs what a call of Ray's costs."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._picture = _PICTURE
        self.start = SimpleNamespace(remote=self._start)
        self.run = SimpleNamespace(remote=self._run)
        self.stop = SimpleNamespace(remote=self._stop)

    async def _start(self) -> Ready:
        return Ready("", 0, {})

    async def _run(self, prompt: Mapping[str, Any], names: tuple[str, ...], *, silence: float) -> Outcome:
        deadline = time.perf_counter() + CALL_SECONDS
        while time.perf_counter() < deadline:
            pass
        await asyncio.sleep(self._seconds)
        report = Report("simulated", "xpu:0", time.time() - self._seconds, self._seconds)
        return Outcome((File("save", "1.png", True, self._picture),), {}, report)

    async def _stop(self) -> None: ...


class _Simulated(dispatch.Batch):
    """The command's own dispatching, queue and results, with workers that only take time."""

    seconds = 0.0

    async def _engage(self, place: Any) -> _Actor:
        return _Actor(self.seconds)


class _Silent:
    def say(self, line: str) -> None: ...

    def doing(self, place: Any, what: str) -> None: ...

    def advance(self) -> None: ...


def simulated(folder: Path) -> Iterator[str]:
    """How busy one command keeps many workers, with results that are really written."""
    yield "| workers | seconds a job | jobs/s of the workers | of that done | processor of the command |"
    yield "|---|---|---|---|---|"
    for workers, seconds in SIMULATED:
        yield _simulate(folder / f"{workers}-{seconds}", workers, seconds)


def _simulate(folder: Path, workers: int, seconds: float) -> str:
    nodes = [{"NodeID": str(number), "NodeManagerHostname": str(number), "Alive": True} for number in range(workers)]
    ray: Any = SimpleNamespace(
        nodes=lambda: nodes, kill=lambda actor: None, exceptions=SimpleNamespace(RayError=ConnectionError)
    )
    graph = workflow.Workflow(text_to_image(checkpoint="none"))
    jobs = make_jobs(graph, settings={}, seeds=range(workers * JOBS_EACH))
    with opened(folder) as results:
        made = _Simulated(
            ray,
            graph,
            results,
            _Silent(),
            setup=Setup(),
            devices=("xpu:0",),
            pattern="{number}",
            width=4,
            silence_seconds=60,
        )
        made.seconds = seconds
        began, processor = time.perf_counter(), time.process_time()
        asyncio.run(made.run(jobs))
        took, busy = time.perf_counter() - began, time.process_time() - processor
    ideal = workers / seconds
    return f"| {workers:,} | {seconds:.0f} | {ideal:.0f} | {len(jobs) / took / ideal:.0%} | {busy / took:.0%} |"


MEASUREMENTS = {
    "handing-out": handing_out,
    "unequal": unequal,
    "waiting": waiting,
    "queued": queued,
    "simulated": simulated,
}
