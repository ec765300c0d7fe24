"""Asks the sources in turn for every quantity, backs off from one that failed, and does not wait for one that hangs."""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..machine.devices import Device
from .host import read_host
from .readings import DeviceSample, FreeMemory, HostSample, MemorySource, Sample, SourceFactory, Unavailable
from .sources import OF_SENSORS

QUANTITIES = ("engines", "temperature", "power", "frequency")

ANSWER_SECONDS = 5.0
"""A driver that takes longer is taken to hang: slow ones need 300 ms, and some seconds when they are first asked."""

FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 300.0

Answer = TypeVar("Answer")


def attempt(what: str, read: Callable[[], Answer]) -> Answer:
    """Calls a reading.

    Drivers and their bindings fail in ways that nobody listed; one of them must not cost the other readings. An error
    of a kind that no source expects is logged with its traceback, once for each reading.

    Raises:
        Unavailable: it failed, in whatever way.
    """
    try:
        return read()
    except Unavailable:
        raise
    except OSError as error:
        raise Unavailable(str(error)) from error
    except Exception as error:
        kind = type(error).__name__
        if (what, kind) not in _logged:
            _logged.add((what, kind))
            logging.exception("XPU Nodes: the %s cannot be read, it is shown as missing.", what)
        raise Unavailable(f"{kind}: {error}") from error


_logged: set[tuple[str, str]] = set()


class Backoff:
    """When something that failed is tried again: after 2, 4, 8, ... seconds, at most 5 minutes, for ever."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0
        self.problem = ""

    @property
    def due(self) -> bool:
        return self._clock() >= self._retry_at

    def failed(self, problem: str) -> None:
        self.problem = problem
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = self._clock() + pause

    def succeeded(self) -> None:
        self._failures = 0
        self._retry_at = 0.0
        self.problem = ""


class LazySource:
    """A source that is looked for when it is first needed, and again later if it was not there."""

    def __init__(self, factory: SourceFactory, device: Device, clock: Callable[[], float]) -> None:
        self._factory = factory
        self._device = device
        self._source: MemorySource | None = None
        self._opening = Backoff(clock)
        self._reading = collections.defaultdict[str, Backoff](lambda: Backoff(clock))

    @property
    def name(self) -> str:
        return self._factory.name

    def read(self, quantity: str) -> Any:
        """One figure, or None where a rate has just begun.

        Raises:
            Unavailable: it failed now, or failed lately and is not due yet.
        """
        backoff = self._opening if self._source is None else self._reading[quantity]
        if not backoff.due:
            raise Unavailable(backoff.problem)
        try:
            value = attempt(f"{quantity} of {self._device.id} from {self.name}", lambda: self._ask(quantity))
        except Unavailable as error:
            backoff = self._opening if self._source is None else self._reading[quantity]
            backoff.failed(str(error))
            raise
        self._reading[quantity].succeeded()
        return value

    def _ask(self, quantity: str) -> Any:
        if self._source is None:
            self._source = self._factory(self._device)
            self._opening.succeeded()
        return getattr(self._source, quantity)()


class Monitor:
    """Takes samples of the machine. `sample` blocks (some drivers for 300 ms): call it on a worker thread.

    Args:
        devices: those to look at; the CPU is the host.
        read_memory: what is free on a device, as everybody else is told.
        sources: of the other quantities.
        answer_seconds: how long a device may take.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        read_memory: Callable[[Device], FreeMemory],
        *,
        sources: Sequence[SourceFactory] = OF_SENSORS,
        clock: Callable[[], float] = time.monotonic,
        answer_seconds: float = ANSWER_SECONDS,
        host: Callable[[], HostSample] = read_host,
    ) -> None:
        self._host = host
        self._looks = [
            _Look(device, read_memory, [LazySource(factory, device, clock) for factory in sources])
            for device in devices
            if device.type != "cpu"
        ]
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: tuple[float, Sample] | None = None

    def sample(self, *, fresh_for_seconds: float = 0.0) -> Sample:
        """Looks at every device and the host, or repeats the last answer if that is recent enough."""
        with self._lock:
            if self._latest is not None and self._clock() - self._latest[0] < fresh_for_seconds:
                return self._latest[1]
            for look in self._looks:
                look.begin()
            sample = Sample(
                time.time(), *self._sample_host(), tuple(look.end(self._answer_seconds) for look in self._looks)
            )
            self._latest = (self._clock(), sample)
            return sample

    def _sample_host(self) -> tuple[HostSample | None, str]:
        """The host, or why it cannot be read."""
        try:
            return attempt("host's memory", self._host), ""
        except Unavailable as error:
            return None, str(error)


class _Look:
    """One device, looked at on a thread of its own: a driver that hangs costs its figures and nobody else's."""

    def __init__(
        self, device: Device, read_memory: Callable[[Device], FreeMemory], sources: Sequence[LazySource]
    ) -> None:
        self._device = device
        self._read_memory = read_memory
        self._sources = sources
        self._answers: queue.SimpleQueue[DeviceSample] = queue.SimpleQueue()
        self._asked_at: float | None = None
        """By the monotonic clock, while there is no answer yet."""

    def begin(self) -> None:
        """Asks, unless there is no answer to an earlier question yet."""
        with contextlib.suppress(queue.Empty):
            self._answers.get_nowait()  # came too late for its sample, and is old by now
            self._asked_at = None
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            threading.Thread(target=self._answer, name=f"xpu-telemetry-{self._device.id}", daemon=True).start()

    def end(self, limit_seconds: float) -> DeviceSample:
        """The answer, or one without figures where the driver takes longer."""
        asked_at = self._asked_at or time.monotonic()
        try:
            answer = self._answers.get(timeout=max(0.0, asked_at + limit_seconds - time.monotonic()))
        except queue.Empty:
            problem = f"its driver has not answered for {time.monotonic() - asked_at:.0f} s"
            return _device_sample(self._device, {}, {}, {"memory": problem, **dict.fromkeys(QUANTITIES, problem)})
        self._asked_at = None
        return answer

    def _answer(self) -> None:
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        missing: dict[str, str] = {}
        try:
            values["memory"] = attempt(f"memory of {self._device.id}", lambda: self._read_memory(self._device))
        except Unavailable as error:
            missing["memory"] = str(error)
        for quantity in QUANTITIES:
            values[quantity], origins[quantity], missing[quantity] = _first_answer(quantity, self._sources)
        self._answers.put(_device_sample(self._device, values, origins, missing))


def _device_sample(
    device: Device, values: Mapping[str, Any], origins: Mapping[str, str], missing: Mapping[str, str]
) -> DeviceSample:
    return DeviceSample(
        device=device.id,
        name=device.name,
        memory=values.get("memory"),
        engine_percent=values.get("engines") or {},
        temperature_celsius=values.get("temperature"),
        power_watts=values.get("power"),
        frequency_mhz=values.get("frequency"),
        sources={quantity: origin for quantity, origin in origins.items() if origin},
        missing={quantity: problem for quantity, problem in missing.items() if problem},
    )


def _first_answer(quantity: str, sources: Sequence[LazySource]) -> tuple[Any, str, str]:
    """(value, source, problem): the value of the first source that answers, or why none does."""
    problems = []
    for source in sources:
        try:
            return source.read(quantity), source.name, ""
        except Unavailable as error:
            problems.append(f"{source.name}: {error}")
    return None, "", "; ".join(problems)
