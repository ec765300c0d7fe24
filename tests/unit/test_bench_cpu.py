"""The arithmetic of the CPU benchmark: what it makes of a server's events, and what it prints."""

from __future__ import annotations

import ctypes
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from xpu_utils.allocator import keep_freed_memory
from xpu_utils.bench import cpu
from xpu_utils.bench.chart import bar_chart

EVENTS = (
    (0.0, "execution_start", {}),
    (0.5, "executing", {"node": "checkpoint"}),
    (2.0, "executing", {"node": "positive"}),
    (2.4, "executing", {"node": "sampler"}),
    (5.0, "progress", {"node": "sampler", "value": 1}),
    (6.0, "progress", {"node": "sampler", "value": 2}),
    (7.5, "progress", {"node": "sampler", "value": 3}),
    (7.6, "executing", {"node": "decode"}),
    (9.6, "executing", {"node": "save"}),
    (9.7, "execution_success", {}),
)


def test_durations_come_from_the_servers_events() -> None:
    found = cpu.durations(EVENTS)
    assert found["step"] == [1.0, 1.5], "the first step waits for the weights and is not counted"
    assert found["first_step"] == [5.0]
    assert found["decode"] == [2.0]
    assert found["encode"] == pytest.approx([0.4])


def _samples(scale: float) -> dict[str, list[float]]:
    return {name: [scale, 3 * scale, 2 * scale] for name in cpu.MEASURES}


def test_the_report_compares_medians_with_ours_and_with_the_floor() -> None:
    samples = {cpu.STOCK.name: _samples(10.0), cpu.BEST.name: _samples(5.0), cpu.OURS.name: _samples(2.0)}
    report = cpu.summary(cpu.SHAPES["sd15"], samples, {"fp32": 100.0, "bf16": 675.0})
    assert report["variants"][cpu.OURS.name]["step"] == {"median": 4.0, "min": 2.0, "count": 3}
    assert report["ratio_to_ours"][cpu.STOCK.name]["step"] == 5.0
    assert report["floor_cpu_s_per_step"] == pytest.approx(2.0)
    assert report["distance_to_floor"] == pytest.approx(2.0)
    text = cpu.table(report)
    assert "20.00 (5.00x)" in text
    assert "ours takes 2.00 times that" in text


def test_a_measure_without_values_is_left_out() -> None:
    samples = {variant.name: {**_samples(1.0), "first_step": []} for variant in (cpu.STOCK, cpu.BEST, cpu.OURS)}
    report = cpu.summary(cpu.SHAPES["dit"], samples, {"fp32": 1.0, "bf16": 1.0})
    assert "first_step" not in report["variants"][cpu.OURS.name]
    assert "distance_to_floor" not in report
    assert cpu.table(report)


def test_the_chart_is_svg_with_bars_in_proportion() -> None:
    root = ElementTree.fromstring(bar_chart("a < b", {"one": 10.0, "two & more": 2.5}))
    widths = [float(bar.get("width", "0")) for bar in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == 4 * widths[1]
    assert "two & more" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        calls: list[tuple[int, int]] = []

        def mallopt(self, parameter: int, value: int) -> int:
            self.calls.append((parameter, value))
            return 1

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    assert keep_freed_memory()
    assert dict(Library.calls) == {-3: 512 << 20, -1: 512 << 20}
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory(), "musl has no mallopt"
    monkeypatch.setattr(sys, "platform", "win32")
    assert not keep_freed_memory()
