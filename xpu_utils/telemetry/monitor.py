"""Asks the sources in turn for every quantity, and backs off from a source that failed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..machine.devices import Device
from .framework import AllocatorSource, DriverSource
from .host import read_host
from .kernel import KernelSource
from .readings import DeviceSample, HostSample, Sample, Source, SourceFactory, Unavailable
from .sysman import SysmanSource

QUANTITIES = ("memory", "engines", "temperature", "power", "frequency")

SOURCES: tuple[SourceFactory, ...] = (SysmanSource, DriverSource, KernelSource, AllocatorSource)
"""In order of trust. Sysman before torch: it finds the device by UUID, tells rates without sleeping."""

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
        self._source: Source | None = None
        self._opening = Backoff(clock)
        self._reading = {quantity: Backoff(clock) for quantity in QUANTITIES}

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
    """Takes samples of the machine. `sample` blocks (some drivers for 300 ms): call it on a worker thread."""

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        sources: Sequence[SourceFactory] = SOURCES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._devices = {
            device: [LazySource(factory, device, clock) for factory in sources]
            for device in devices
            if device.type != "cpu"
        }
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: tuple[float, Sample] | None = None

    def sample(self, *, fresh_for_seconds: float = 0.0) -> Sample:
        """Looks at every device and the host, or repeats the last answer if that is recent enough."""
        with self._lock:
            if self._latest is not None and self._clock() - self._latest[0] < fresh_for_seconds:
                return self._latest[1]
            devices = tuple(_sample(device, sources) for device, sources in self._devices.items())
            sample = Sample(time.time(), *_sample_host(), devices)
            self._latest = (self._clock(), sample)
            return sample


def _sample_host() -> tuple[HostSample | None, str]:
    """The host, or why it cannot be read."""
    try:
        return attempt("host's memory", read_host), ""
    except Unavailable as error:
        return None, str(error)


def _sample(device: Device, sources: Sequence[LazySource]) -> DeviceSample:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    missing: dict[str, str] = {}
    for quantity in QUANTITIES:
        values[quantity], origins[quantity], missing[quantity] = _first_answer(quantity, sources)
    return DeviceSample(
        device=device.id,
        name=device.name,
        memory=values["memory"],
        engine_percent=values["engines"] or {},
        temperature_celsius=values["temperature"],
        power_watts=values["power"],
        frequency_mhz=values["frequency"],
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
