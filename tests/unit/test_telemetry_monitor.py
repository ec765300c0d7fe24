"""The monitor: sources in order, back-off after failures, never off for good."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.machine.devices import Device
from xpu_utils.telemetry.framework import DriverSource
from xpu_utils.telemetry.monitor import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, QUANTITIES, Backoff, Monitor
from xpu_utils.telemetry.readings import FreeMemory, MemoryReading, Rate, Unavailable

from .recorded import GIB, xpu


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def memory(device: Device) -> FreeMemory:
    """A device of which 4 GiB are free."""
    return FreeMemory(device.id, 4 * GIB, 16 * GIB, 2 * GIB, 0, 10 * GIB, "driver")


def source(name: str, *, celsius: float | None = None, megahertz: float | None = None) -> Any:
    """A kind of source that gives a temperature or a frequency, and counts how often it is asked."""

    class Made:
        calls = 0
        broken = False

        def __init__(self, _device: Device) -> None:
            pass

        def memory(self) -> MemoryReading:
            raise Unavailable("asked by nobody here")

        def temperature(self) -> float:
            Made.calls += 1
            if Made.broken or celsius is None:
                raise Unavailable("no sensor")
            return celsius

        def engines(self) -> Mapping[str, float] | None:
            return None

        def power(self) -> float | None:
            raise Unavailable("no counter")

        def frequency(self) -> float:
            if megahertz is None:
                raise Unavailable("no clock")
            return megahertz

    Made.name = name  # type: ignore[attr-defined]
    return Made


def test_each_quantity_comes_from_the_first_source_that_gives_it() -> None:
    sources = [source("first", celsius=50.0), source("second", celsius=60.0, megahertz=2400.0)]
    (device,) = Monitor([xpu()], memory, sources=sources).sample().devices
    assert (device.temperature_celsius, device.frequency_mhz) == (50.0, 2400.0)
    assert device.memory == memory(xpu())
    assert device.sources == {"temperature": "first", "frequency": "second", "engines": "first"}
    assert device.missing == {"power": "first: no counter; second: no counter"}


def test_a_failed_reading_is_missing_and_comes_back_by_itself() -> None:
    clock, made = Clock(), source("only", celsius=50.0)
    monitor = Monitor([xpu()], memory, sources=[made], clock=clock)
    made.broken = True
    assert monitor.sample().devices[0].temperature_celsius is None
    made.broken = False
    assert monitor.sample().devices[0].temperature_celsius is None  # not asked again before the pause is over
    assert made.calls == 1
    clock.now += FIRST_PAUSE_SECONDS
    assert monitor.sample().devices[0].temperature_celsius == 50.0


def test_a_source_that_could_not_be_opened_is_looked_for_again() -> None:
    clock, made = Clock(), source("late", celsius=50.0)
    present = False

    class Late:
        name = "late"

        def __new__(cls, device: Device) -> Any:
            if not present:
                raise Unavailable("driver not loaded yet")
            return made(device)

    monitor = Monitor([xpu()], memory, sources=[Late], clock=clock)
    assert "driver not loaded yet" in monitor.sample().devices[0].missing["temperature"]
    present = True
    clock.now += FIRST_PAUSE_SECONDS
    assert monitor.sample().devices[0].temperature_celsius == 50.0


@pytest.mark.parametrize("error", [KeyError("kB"), OSError(5, "Input/output error"), AttributeError("no zesInit")])
def test_an_error_of_any_kind_costs_one_reading_and_not_the_monitor(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    clock, made = Clock(), source("odd")

    def fail(_self: Any) -> float:
        raise error

    made.temperature = fail
    monitor = Monitor([xpu()], memory, sources=[made, source("sound", celsius=50.0)], clock=clock)
    for _ in range(3):
        (device,) = monitor.sample().devices
        assert device.temperature_celsius == 50.0
        assert device.memory is not None
        clock.now += LONGEST_PAUSE_SECONDS
    told = [record for record in caplog.records if "temperature of xpu:0 from odd" in record.getMessage()]
    assert len(told) == (0 if isinstance(error, OSError) else 1), "an error that nobody expects is logged once"
    assert all(record.exc_info for record in told)


def test_a_source_that_fails_to_open_in_an_unknown_way_is_passed_over() -> None:
    class Odd:
        name = "odd"

        def __new__(cls, _device: Device) -> Any:
            raise AttributeError("module 'pyzes' has no attribute 'zesDriverGet'")

    (device,) = Monitor([xpu()], memory, sources=[Odd]).sample().devices
    assert device.missing["power"] == "odd: AttributeError: module 'pyzes' has no attribute 'zesDriverGet'"


def test_a_host_that_cannot_be_read_is_missing_with_its_reason() -> None:
    def fail() -> Any:
        raise PermissionError(13, "Permission denied", "/proc/meminfo")

    sample = Monitor([xpu()], memory, sources=[source("only", celsius=50.0)], host=fail).sample()
    assert sample.host is None
    assert "/proc/meminfo" in sample.host_problem
    assert sample.devices[0].temperature_celsius == 50.0


@given(st.integers(min_value=1, max_value=60))
def test_pauses_grow_to_a_limit_and_never_end_the_retries(failures: int) -> None:
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(failures):
        backoff.failed("gone")
    assert not backoff.due
    clock.now += LONGEST_PAUSE_SECONDS
    assert backoff.due


@given(st.lists(st.tuples(st.integers(0, 10**15), st.integers(0, 10**15)), max_size=20))
def test_a_rate_is_never_negative(readings: list[tuple[int, int]]) -> None:
    rate = Rate()
    assert all((value := rate.update(*reading)) is None or value >= 0 for reading in readings)


def test_an_answer_recent_enough_is_repeated() -> None:
    clock, made = Clock(), source("only", celsius=50.0)
    monitor = Monitor([xpu()], memory, sources=[made], clock=clock)
    assert monitor.sample(fresh_for_seconds=1.0) is monitor.sample(fresh_for_seconds=1.0)
    clock.now += 1.0
    monitor.sample(fresh_for_seconds=1.0)
    assert made.calls == 2


def test_the_cpu_is_the_host_and_not_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = xpu(type="cpu", index=None)
    sample = Monitor([cpu], memory).sample()
    assert sample.devices == ()
    assert sample.host is not None
    assert 0 < sample.host.own_bytes < sample.host.used_bytes < sample.host.total_bytes


def test_memory_that_nobody_can_tell_is_missing_with_the_reason() -> None:
    def blind(_device: Device) -> FreeMemory:
        raise Unavailable("no source tells the memory of xpu:0")

    (device,) = Monitor([xpu()], blind, sources=[source("only", celsius=50.0)]).sample().devices
    assert (device.memory, device.missing["memory"]) == (None, "no source tells the memory of xpu:0")
    assert device.temperature_celsius == 50.0


def test_a_driver_that_hangs_costs_its_own_figures_until_it_answers_again() -> None:
    hangs, asked = threading.Event(), []

    def wedged(device: Device) -> FreeMemory:
        asked.append(device.id)
        if device.index == 1:
            hangs.wait()
        return memory(device)

    monitor = Monitor([xpu(), xpu(index=1)], wedged, sources=[source("only", celsius=50.0)], answer_seconds=0.5)
    try:
        for _ in range(2):
            sound, silent = monitor.sample().devices
            assert sound.memory == memory(xpu())
            assert (silent.memory, silent.temperature_celsius, silent.engine_percent) == (None, None, {})
            assert set(silent.missing) == {"memory", *QUANTITIES}
            assert silent.missing["power"].startswith("its driver has not answered for ")
        assert asked.count("xpu:1") == 1, "it is not asked again while it hangs"
    finally:
        hangs.set()
    eventually = (monitor.sample().devices[1].memory for _ in range(50))
    assert next(filter(None, eventually)) == memory(xpu(index=1))
    assert asked.count("xpu:1") == 2, "what came too late is old: it was asked anew"


def test_torch_readings_by_position_are_used_only_without_a_second_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "temperature", lambda _index: 47.0, raising=False)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    assert DriverSource(xpu()).temperature() == 47.0
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    with pytest.raises(Unavailable, match="only by position"):
        DriverSource(xpu()).temperature()
