"""The panel in every palette that the front end ships, and in narrow places: all of it can be read."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.harness.server import Server
from tests.harness.workflows import text_to_image, with_our_nodes
from tests.xpu_sim.control import Client as Simulation

from .acting import eventually, setting, start, wait_done
from .conftest import DESKTOP, screenshot

PALETTES = ("dark", "light", "solarized", "arc", "nord", "github")

SEEN = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const paint = (colours) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const behind = (element) => element
        ? [...behind(element.parentElement), getComputedStyle(element).backgroundColor] : ['white'];
    const found = [];
    const note = (kind, what, colour, element) =>
        found.push([kind, what, paint([...behind(element), colour]), paint(behind(element))]);
    for (const element of document.querySelectorAll('.xpu-panel *')) {
        if (!element.checkVisibility()) continue;
        const style = getComputedStyle(element);
        const name = element.getAttribute('class') || element.tagName;
        const behindKey = getComputedStyle(element, '::before').backgroundColor;
        const text = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (text) note('text', element.textContent.slice(0, 40), style.color, element);
        if (element.matches('.pi')) note('graphic', name, style.color, element);
        if (element.matches('.xpu-line, .xpu-full')) note('graphic', name, style.stroke, element);
        if (element.matches('.xpu-bar span')) note('graphic', name, style.backgroundColor, element.parentElement);
        if (element.matches('.xpu-key')) note('graphic', name, behindKey, element);
        if (style.borderLeftWidth === '3px') note('graphic', name, style.borderLeftColor, element);
    }
    return found;
}"""
"""Of everything visible in the panel: its colour, and the colour behind it."""

LEAST = {"text": 4.5, "graphic": 3.0}
"""Contrasts of WCAG 2.2 at level AA."""


def contrast(colour: list[int], other: list[int]) -> float:
    lighter, darker = sorted((luminance(colour), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: list[int]) -> float:
    parts = [part / 255 for part in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.fixture(scope="module")
def eventful(page: Page, server: Server, simulation: Simulation) -> Page:
    """A panel that shows everything it can: a job with a differing device and a survived fault, all details open."""
    workflow = with_our_nodes(text_to_image(steps=2, seed=21))
    workflow["decode"]["inputs"]["device"] = "xpu:7"
    simulation.change_device(0, other_process_bytes=3 << 30)
    simulation.set_faults({"operator": "convolution", "kind": "out_of_device_memory", "nth": 60})
    try:
        start(page, workflow)
        wait_done(server)
    finally:
        simulation.set_faults()
    expect(page.locator(".xpu-job .xpu-fault")).to_be_visible()
    expect(page.locator(".xpu-job .xpu-differs")).to_be_visible()
    page.evaluate("() => document.querySelectorAll('.xpu-panel details').forEach((details) => (details.open = true))")
    return page


@pytest.mark.parametrize("palette", PALETTES)
def test_everything_stands_out_from_what_is_behind_it(eventful: Page, palette: str) -> None:
    previous = eventful.evaluate("() => getComputedStyle(document.querySelector('.xpu-card')).backgroundColor")
    setting(eventful, "Comfy.ColorPalette", palette)
    if palette != "dark":
        changed = "(before) => getComputedStyle(document.querySelector('.xpu-card')).backgroundColor !== before"
        eventually(lambda: eventful.evaluate(changed, previous))
    eventful.wait_for_timeout(500)  # the host's own transitions
    seen: list[tuple[str, str, Any, Any]] = eventful.evaluate(SEEN)
    assert {kind for kind, *_ in seen} == set(LEAST)
    assert len(seen) > 40
    faint = [
        (what, round(contrast(colour, behind), 2))
        for kind, what, colour, behind in seen
        if contrast(colour, behind) < LEAST[kind]
    ]
    assert faint == []
    screenshot(eventful, f"panel-{palette}")
    setting(eventful, "Comfy.ColorPalette", "dark")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (480, 640)])
def test_nothing_sticks_out_and_no_figure_is_parted_from_its_unit(eventful: Page, width: int, height: int) -> None:
    eventful.set_viewport_size({"width": width, "height": height})
    expect(eventful.locator(".xpu-card")).to_be_visible()
    widths = eventful.locator(".xpu-panel").evaluate("(element) => [element.scrollWidth, element.clientWidth]")
    assert widths[0] <= widths[1]
    lines = """(figures) => figures.map((figure) => {
        const range = document.createRange();
        range.selectNodeContents(figure);
        return new Set([...range.getClientRects()].map(({top}) => top)).size;
    })"""
    assert set(eventful.locator(".xpu-figures dd, .xpu-chart-title b, .xpu-share").evaluate_all(lines)) == {1}
    screenshot(eventful, f"panel-{width}")
    eventful.set_viewport_size(DESKTOP)
