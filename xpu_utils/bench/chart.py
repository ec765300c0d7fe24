"""A bar chart as SVG text."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_BAR, _GAP, _WIDTH, _TOP = 28, 12, 420, 44


def bar_chart(title: str, bars: Mapping[str, float], *, labels: Mapping[str, str] | None = None) -> str:
    """Horizontal bars, legible on light and dark pages.

    Args:
        title: stands above.
        bars: name -> length, relative to the longest.
        labels: name -> what stands at the bar's end; without them, the length as a number.
    """
    longest = max(bars.values(), default=1.0)
    left = max(190, 20 + 8 * max(map(len, bars), default=0))
    height = _TOP + len(bars) * (_BAR + _GAP)
    rows = []
    for index, (name, value) in enumerate(bars.items()):
        y = _TOP + index * (_BAR + _GAP)
        length = _WIDTH * value / longest
        middle = y + _BAR * 0.68
        label = f"{value:.2f}" if labels is None else escape(labels[name])
        rows += [
            f'<text x="{left - 10}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{length:.0f}" height="{_BAR}" rx="3" fill="#0068b5"/>',
            f'<text x="{left + length + 8:.0f}" y="{middle:.0f}">{label}</text>',
        ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + _WIDTH + 120}" height="{height}" '
            'font-family="sans-serif" font-size="15" fill="#808890">',
            f'<text x="10" y="24" font-weight="bold">{escape(title)}</text>',
            *rows,
            "</svg>\n",
        ]
    )
