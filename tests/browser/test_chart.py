"""A chart of the panel, drawn in a real browser."""

from __future__ import annotations

import re

from playwright.sync_api import Page


def test_a_chart_leaves_open_what_was_not_read(page: Page) -> None:
    drawn = """async (points) => {
        const chart = new (await import('/extensions/xpu-nodes/chart.js')).Chart('Load', 'xpu:0');
        chart.update(points, 2, 20);
        return [chart.line.getAttribute('d'), chart.area.getAttribute('d'), chart.now.textContent,
            chart.svg.querySelector('.xpu-full').getAttribute('d'), chart.svg.getAttribute('aria-label')];
    }"""
    shares = [(0, 50), (2, 100), (4, None), (6, 0), (8, 0), (18, 100), (20, 25)]
    line, area, now, full, label = page.evaluate(drawn, [{"at": at, "share": share} for at, share in shares])
    moves = re.findall(r"M([\d.]+),([\d.]+)", line)
    assert [float(x) for x, _ in moves] == [0, 72, 216]  # a missing reading and a long pause each leave a gap
    top, bottom = (re.findall(rf"(?:L|M| ){x},([\d.]+)", line)[0] for x in ("24.0", "72.0"))
    assert full == f"M0,{float(top):g}H240"  # the line of 100 % is where 100 % is drawn
    assert float(bottom) > float(top) + 40
    assert area.count("Z") == 3
    assert now == "25\u00a0%"
    assert label == "Load of xpu:0: now 25\u00a0%, at most 100 %"


def test_a_chart_that_has_just_begun_grows_from_the_right(page: Page) -> None:
    drawn = """async () => {
        const chart = new (await import('/extensions/xpu-nodes/chart.js')).Chart('Load', 'xpu:0');
        chart.update([{at: 100, share: 50}, {at: 102, share: 60}], 2, 180);
        return chart.line.getAttribute('d');
    }"""
    assert re.findall(r"([\d.]+),", page.evaluate(drawn)) == ["237.3", "240.0"]
