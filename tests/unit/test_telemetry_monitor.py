"""The monitor: sources in order, back-off after failures, never off for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpu_utils.machine.devices import Device
from xpu_utils.telemetry import monitor as monitor_module
from xpu_utils.telemetry.framework import DriverSource, allocator_memory, driver_memory
from xpu_utils.telemetry.monitor import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Backoff, Monitor
from xpu_utils.telemetry.readings import MemoryReading, Rate, Unavailable

from .recorded import GIB, xpu


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def source(name: str, *, celsius: float | None = None, used_bytes: int | None = None) -> Any:
    """A kind of source that gives a temperature or memory, and counts how often it is asked."""

    class Made:
        calls = 0
        broken = False

        def __init__(self, _device: Device) -> None:
            pass

        def memory(self) -> MemoryReading:
            if used_bytes is None:
                raise Unavailable("no memory here")
            return MemoryReading(name, 16 * GIB, used_bytes, used_bytes, sees_others=False)

        def temperature(self) -> float:
            Made.calls += 1
            if Made.broken or celsius is None:
                raise Unavailable("no sensor")
            return celsius

        def engines(self) -> Mapping[str, float] | None:
            return None

        def power(self) -> float | None:
            raise Unavailable("no counter")

        frequency = power

    Made.name = name  # type: ignore[attr-defined]
    return Made


def test_each_quantity_comes_from_the_first_source_that_gives_it() -> None:
    monitor = Monitor([xpu()], sources=[source("first", celsius=50.0), source("second", celsius=60.0, used_bytes=GIB)])
    (device,) = monitor.sample().devices
    assert device.temperature_celsius == 50.0
    assert device.memory is not None
    assert device.sources["temperature"] == "first"
    assert device.sources["memory"] == "second"
    assert device.missing == {
        "power": "first: no counter; second: no counter",
        "frequency": "first: no counter; second: no counter",
    }


def test_a_failed_reading_is_missing_and_comes_back_by_itself() -> None:
    clock, made = Clock(), source("only", celsius=50.0)
    monitor = Monitor([xpu()], sources=[made], clock=clock)
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

    monitor = Monitor([xpu()], sources=[Late], clock=clock)
    assert "driver not loaded yet" in monitor.sample().devices[0].missing["temperature"]
    present = True
    clock.now += FIRST_PAUSE_SECONDS
    assert monitor.sample().devices[0].temperature_celsius == 50.0


@pytest.mark.parametrize("error", [KeyError("kB"), OSError(5, "Input/output error"), AttributeError("no zesInit")])
def test_an_error_of_any_kind_costs_one_reading_and_not_the_monitor(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "_logged", set())
    clock, made = Clock(), source("odd", used_bytes=GIB)

    def fail(_self: Any) -> float:
        raise error

    made.temperature = fail
    monitor = Monitor([xpu()], sources=[made, source("sound", celsius=50.0)], clock=clock)
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

    (device,) = Monitor([xpu()], sources=[Odd]).sample().devices
    assert device.missing["memory"] == "odd: AttributeError: module 'pyzes' has no attribute 'zesDriverGet'"


def test_a_host_that_cannot_be_read_is_missing_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise PermissionError(13, "Permission denied", "/proc/meminfo")

    monkeypatch.setattr(monitor_module, "read_host", fail)
    sample = Monitor([xpu()], sources=[source("only", celsius=50.0)]).sample()
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
    monitor = Monitor([xpu()], sources=[made], clock=clock)
    assert monitor.sample(fresh_for_seconds=1.0) is monitor.sample(fresh_for_seconds=1.0)
    clock.now += 1.0
    monitor.sample(fresh_for_seconds=1.0)
    assert made.calls == 2


def test_the_cpu_is_the_host_and_not_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = xpu(type="cpu", index=None)
    sample = Monitor([cpu]).sample()
    assert sample.devices == ()
    assert sample.host is not None
    assert 0 < sample.host.own_bytes < sample.host.used_bytes < sample.host.total_bytes


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "reserved_bytes", "reason"),
    [
        (0, 0, 0, "0 bytes free of 0"),
        (17 * GIB, 16 * GIB, 0, "bytes free of"),
        (16 * GIB, 16 * GIB, GIB, "sees less in use"),
    ],
)
def test_an_answer_of_the_driver_that_cannot_be_true_is_refused(
    free_bytes: int, total_bytes: int, reserved_bytes: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda _index: (free_bytes, total_bytes))
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda _index: reserved_bytes)
    with pytest.raises(Unavailable, match=reason):
        driver_memory(xpu())
    assert allocator_memory(xpu()).used_bytes == reserved_bytes


def test_torch_readings_by_position_are_used_only_without_a_second_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "temperature", lambda _index: 47.0, raising=False)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    assert DriverSource(xpu()).temperature() == 47.0
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    with pytest.raises(Unavailable, match="only by position"):
        DriverSource(xpu()).temperature()
