"""The arithmetic of the CPU benchmark: what it makes of a server's events, and what it prints."""

from __future__ import annotations

import argparse
import ctypes
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from tests.bench import cpu
from tests.bench import cpu_turns as turns
from tests.bench.cpu_report import Work, chart, summary, table
from xpu_utils.bench.chart import bar_chart
from xpu_utils.cpu.allocator import keep_freed_memory

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
    found = turns.durations(EVENTS)
    assert found["step"] == [1.0, 1.5], "the first step waits for the weights and is not counted"
    assert found["first_step"] == [5.0]
    assert found["decode"] == [2.0]
    assert found["encode"] == pytest.approx([0.4])


MACHINE = {
    "cpu": "Test CPU",
    "threads": 2,
    "torch": "2",
    "comfyui": "0",
    "gemm_gflops_per_core": {"fp32": 100.0, "bf16": 675.0},
    "plan": {"precision": "bf16"},
}
WORK = Work(weights=1 << 29, step_tflop=1.35)


def _samples(scale: float) -> dict[str, list[float]]:
    return {**{name: [scale, 3 * scale, 2 * scale] for name in turns.MEASURES}, "idle": [0.5, 0.6]}


def _report(machine: dict[str, Any] = MACHINE) -> dict[str, Any]:
    samples = {turns.STOCK.name: _samples(10.0), turns.BEST.name: _samples(5.0), turns.OURS.name: _samples(2.0)}
    return summary(turns.SHAPES["sd15"], samples, WORK, machine)


def test_the_report_compares_medians_with_ours_and_with_the_floor() -> None:
    report = _report()
    assert report["variants"][turns.OURS.name]["step"] == {"median": 4.0, "min": 2.0, "count": 3}
    assert report["ratio_to_ours"][turns.STOCK.name]["step"] == 5.0
    assert report["floor_cpu_s_per_step"] == pytest.approx(2.0)
    assert report["distance_to_floor"] == pytest.approx(2.0)
    assert report["clock_distance_to_floor"] == pytest.approx(4.0), "4 s where two threads need one"
    text = table({"machine": MACHINE, "shapes": {"sd15": report}})
    assert "20.00 (5.00x)" in text
    assert "ours takes 2.00 times that in CPU seconds, 4.00 times on the clock" in text


def test_the_floor_is_that_of_the_fastest_format() -> None:
    emulating = {**MACHINE, "gemm_gflops_per_core": {"fp32": 135.0, "bf16": 1.0}, "plan": {"precision": "fp32"}}
    assert _report(emulating)["floor_cpu_s_per_step"] == pytest.approx(10.0)


def test_peak_memory_is_compared_with_the_weights_in_the_format_computed_in() -> None:
    over = _report()["peak_over_weights"]
    assert over[turns.OURS.name] == pytest.approx(3.5), "(4 - 0.5) GiB over 1 GiB in bf16"
    assert over[turns.STOCK.name] == pytest.approx(9.75), "(20 - 0.5) GiB over 2 GiB in fp32"


def test_the_report_keeps_every_sample() -> None:
    assert _report()["samples"][turns.OURS.name]["step"] == [2.0, 6.0, 4.0]


def test_the_chart_has_a_bar_for_each_variant_and_measure() -> None:
    root = ElementTree.fromstring(chart({"machine": MACHINE, "shapes": {"sd15": _report()}}))
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for title in ("sd15 s/step: stock", "sd15 VAE decode: XPU Nodes", "sd15 load to first step: stock, best flags"):
        assert title in texts
    assert "4.00 s" in texts


def test_each_turn_has_another_variant_first() -> None:
    variants = (turns.STOCK, turns.BEST, turns.OURS)
    assert [turns.rotated(variants, turn)[0] for turn in range(4)] == [*variants, turns.STOCK]
    assert set(turns.rotated(variants, 2)) == set(variants)


def test_the_time_left_follows_what_each_variant_took() -> None:
    bar = turns.TurnBar(["slow", "fast", "slow", "fast", "new"])
    bar.done(30.0)
    assert bar.left_s() == pytest.approx(30 * 4)
    bar.done(10.0)
    assert bar.left_s() == pytest.approx(30 + 10 + 20)


@pytest.mark.parametrize("wrong", [["--steps", "1"], ["--rounds", "0"], ["--threads", "0"], ["--steps", "two"]])
def test_what_could_not_be_reported_is_refused_before_measuring(wrong: list[str]) -> None:
    parser = argparse.ArgumentParser()
    cpu.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["cpu", *wrong])


def test_a_cpu_that_emulates_bf16_is_compared_with_stocks_best_flags_without_it() -> None:
    assert turns.BEST in turns.variants_for({"fp32": 80.0, "bf16": 200.0})
    assert turns.BEST_WITHOUT_BF16 in turns.variants_for({"fp32": 80.0, "bf16": 1.0})


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
