"""The panel in a real browser: what it shows is what the simulated device counts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.harness.server import Server
from tests.harness.workflows import text_to_image, with_our_nodes
from tests.xpu_sim.control import Client as Simulation

from .conftest import DESKTOP, screenshot

CENTRE = """async () => {
    const node = window.app.graph.nodes.find((node) => node.type === "XPUKSampler");
    window.app.canvas.ds.scale = 1;
    window.app.canvas.centerOnNode(node);
    window.app.canvas.setDirty(true, true);
    await new Promise((done) => setTimeout(done, 300));
}"""
"""Brings the sampler into the picture."""

UNITS = {"MiB": 2**20, "GiB": 2**30}


def start(page: Page, workflow: dict[str, Any]) -> None:
    """Loads a workflow into the front end and runs it with its own button's command."""
    page.evaluate("async (graph) => { await window.app.loadApiJson(graph, 'test'); }", workflow)
    page.evaluate("async () => { await window.app.extensionManager.command.execute('Comfy.Canvas.FitView'); }")
    page.evaluate("async () => { await window.app.queuePrompt(0); }")


def wait_done(server: Server) -> None:
    for _ in range(600):
        queue = server.client.get("/queue")
        if not queue["queue_running"] and not queue["queue_pending"]:
            return
        time.sleep(0.2)
    raise AssertionError("the workflow did not end")


def shown_bytes(page: Page, what: str) -> float:
    """A figure of the first card: "here 612 MiB"."""
    text = page.inner_text(".xpu-memory")
    found = re.search(rf"{what} ([\d.]+) ([MG]iB)", text)
    assert found, text
    return float(found[1]) * UNITS[found[2]]


def sampled(page: Page) -> dict[str, Any]:
    """The sample that the page shows, as its own modules hold it."""
    result: dict[str, Any] = page.evaluate(
        "async () => (await import('/extensions/xpu-nodes/connection.js')).samples.at(-1)"
    )
    return result


def eventually(condition: Callable[[], bool], *, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def settled(page: Page, simulation: Simulation) -> int:
    """Waits until the page's sample and the device's own count are the same, and answers it: bytes reserved."""
    counts = [0]

    def same() -> bool:
        counts[0] = simulation.statistics().devices[0].reserved_bytes
        return bool(sampled(page)["devices"][0]["memory"]["own_bytes"] == counts[0])

    eventually(same, timeout_s=40)
    return counts[0]


def test_numbers_move_with_a_workflow_and_agree_with_the_device(
    page: Page, server: Server, simulation: Simulation
) -> None:
    start(page, with_our_nodes(text_to_image(steps=12, size=128)))
    seen = set()

    def watched() -> bool:
        seen.add(shown_bytes(page, "here"))
        return len(seen) >= 3

    eventually(watched, timeout_s=60)
    screenshot(page, "panel-running")
    wait_done(server)
    counted = settled(page, simulation)
    assert counted > 100 << 20
    assert shown_bytes(page, "here") == pytest.approx(counted, rel=0.02)
    share = re.search(r"xpu:0 (\d+) %", page.inner_text(".xpu-badge"))
    assert share
    assert int(share[1]) == round(100 * counted / (12 << 30))
    decode = server.client.get("/xpu/jobs")["jobs"][0]["stages"][-1]
    assert decode["name"] == "decode"
    assert decode["peak_bytes"] == simulation.statistics().devices[0].peak_bytes
    assert "peak" in page.inner_text(".xpu-job")
    screenshot(page, "panel-done")


def test_memory_of_other_programs_is_told_apart(page: Page, simulation: Simulation) -> None:
    simulation.change_device(0, other_process_bytes=3 << 30)
    try:
        expect(page.locator(".xpu-memory")).to_contain_text("others 3.0 GiB", timeout=15_000)
    finally:
        simulation.change_device(0, other_process_bytes=0)


def test_a_reading_that_fails_is_shown_as_missing_and_comes_back(page: Page, simulation: Simulation) -> None:
    readings = {"temperature_c": 48.0, "clock_rate_mhz": 2400.0, "power_draw_w": 61.0, "utilization_percent": 12.0}
    temperature = page.locator(".xpu-card dl > div", has_text="Temperature").locator("dd")
    expect(temperature).to_have_text("48 °C")
    simulation.change_device(0, telemetry={**readings, "temperature_c": None})
    expect(temperature).to_have_text("–", timeout=15_000)
    assert "torch.xpu.temperature" in (temperature.get_attribute("title") or "")
    simulation.change_device(0, telemetry=readings)
    expect(temperature).to_have_text("48 °C", timeout=15_000)


def test_the_job_shows_where_its_stages_ran_and_the_node_wears_a_red_badge(page: Page, server: Server) -> None:
    workflow = with_our_nodes(text_to_image(steps=1))
    for entry in workflow.values():
        if entry["class_type"] == "XPUKSampler":
            entry["inputs"]["device"] = "xpu:7"
    start(page, workflow)
    wait_done(server)
    differing = page.locator(".xpu-job .xpu-differs")
    expect(differing).to_have_count(1, timeout=15_000)
    expect(differing).to_contain_text("xpu:7 is not on this machine")
    badges = """() => Object.fromEntries(window.app.graph.nodes.filter((node) => node.type.startsWith("XPU")).map(
        (node) => [node.type, node.badges.map((badge) => (typeof badge === "function" ? badge() : badge))
            .filter((badge) => /^xpu:|^cpu/.test(badge.text)).map((badge) => [badge.text, badge.bgColor])]))"""
    eventually(lambda: len(page.evaluate(badges)["XPUVAEDecode"]) == 1)
    worn = page.evaluate(badges)
    assert worn["XPUKSampler"] == [["xpu:0, not xpu:7", "#b3261e"]]
    assert worn["XPUVAEDecode"][0][0] == "xpu:0"
    assert worn["XPUVAEDecode"][0][1] != "#b3261e"
    page.evaluate(CENTRE)
    screenshot(page, "node-badge")


def test_a_fault_shows_its_toast_and_stays_in_the_job(page: Page, server: Server, simulation: Simulation) -> None:
    simulation.set_faults({"operator": "convolution", "kind": "out_of_device_memory", "nth": 60})
    try:
        start(page, with_our_nodes(text_to_image(steps=6, seed=8)))
        told = re.compile(r"xpu:0: .+ at step \d: continued with .+")
        expect(page.locator(".p-toast-message", has_text=told)).to_be_visible(timeout=60_000)
        expect(page.locator(".xpu-job .xpu-fault")).to_contain_text("continued with")
        screenshot(page, "fault-toast")
    finally:
        simulation.set_faults()
    wait_done(server)


def test_free_memory_frees_the_device(page: Page, server: Server, simulation: Simulation) -> None:
    start(page, with_our_nodes(text_to_image(steps=1, seed=9)))
    wait_done(server)
    assert simulation.statistics().devices[0].reserved_bytes > 100 << 20
    page.get_by_role("button", name="Free memory").click()
    expect(page.get_by_role("status").filter(has_text="Models are unloaded")).to_be_visible()
    eventually(lambda: simulation.statistics().devices[0].reserved_bytes < 50 << 20, timeout_s=40)
    assert settled(page, simulation) < 50 << 20


def test_the_report_is_copied_without_what_identifies_a_machine(page: Page) -> None:
    page.get_by_role("button", name="Copy report").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible(timeout=15_000)
    report = json.loads(page.evaluate("() => navigator.clipboard.readText()"))
    assert report["devices"][0]["name"] == "Intel(R) Arc(TM) B580 Graphics"
    assert "uuid" not in json.dumps(report)
    assert {"code": "torch-xpu", "state": "ok", "what": "PyTorch is an XPU build"} in report["findings"]


def test_a_finding_offers_its_fix_to_copy(page: Page) -> None:
    finding = page.locator(".xpu-finding", has_text="pyzes")
    finding.locator("summary").click()
    fix = finding.locator("pre").inner_text()
    finding.get_by_role("button").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == fix
    assert "install" in fix


def test_the_panel_works_by_keyboard_and_names_its_parts(page: Page) -> None:
    page.get_by_role("button", name="Free memory").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Copy report")).to_be_focused()
    expect(page.get_by_role("img", name=re.compile(r"Memory of xpu:0: now \d+ %"))).to_be_visible()
    expect(page.get_by_role("meter", name="Memory of xpu:0")).to_be_visible()
    expect(page.get_by_role("region", name="Latest job")).to_be_visible()


def test_a_hidden_page_stops_asking_and_a_closed_panel_with_no_badge_too(page: Page) -> None:
    timers = "async () => (await import('/extensions/xpu-nodes/connection.js')).watching()"
    assert page.evaluate(timers) is True
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    page.evaluate(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    eventually(lambda: page.evaluate(timers) is False)
    page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    eventually(lambda: page.evaluate(timers) is True)
    page.evaluate("() => window.app.extensionManager.setting.set('xpu-nodes.badge', false)")
    expect(page.locator(".xpu-badge")).to_be_hidden()
    assert page.evaluate(timers) is True  # the panel still shows
    toggle = "() => window.app.extensionManager.command.execute('Workspace.ToggleSidebarTab.xpu-nodes')"
    page.evaluate(toggle)
    eventually(lambda: page.evaluate(timers) is False)
    page.evaluate("() => window.app.extensionManager.setting.set('xpu-nodes.badge', true)")
    eventually(lambda: page.evaluate(timers) is True)
    page.evaluate(toggle)
    expect(page.locator(".xpu-card")).to_be_visible()


@pytest.mark.parametrize(("palette", "width", "height"), [("light", 1280, 800), ("dark", 480, 640)])
def test_light_theme_and_small_window(page: Page, palette: str, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate("(name) => window.app.extensionManager.setting.set('Comfy.ColorPalette', name)", palette)
    card = page.locator(".xpu-card")
    expect(card).to_be_visible()
    widths = page.locator(".xpu-panel").evaluate("(element) => [element.scrollWidth, element.clientWidth]")
    assert widths[0] <= widths[1]  # nothing sticks out sideways
    brightness = """(element) => ["color", "backgroundColor"].map((name) => getComputedStyle(element)[name]
        .match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part) / 3, 0))"""
    eventually(lambda: (card.evaluate(brightness)[1] > 128) == (palette == "light"))
    text, background = card.evaluate(brightness)
    assert abs(text - background) > 100
    screenshot(page, f"panel-{palette}-{width}")
    page.evaluate("() => window.app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    page.set_viewport_size(DESKTOP)
