"""Other front ends than the one of the default host: what we show is there too, and what they lack is done without."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.harness.front_ends import NEWER, OLDEST
from tests.harness.server import Server
from tests.harness.workflows import REPORT, text_to_image, with_our_nodes
from tests.xpu_sim.control import Client as Simulation

from .acting import TOGGLE_TAB, badges, eventually, open_panel, setting, shown_text, start, wait_done
from .conftest import VUE_NODES, new_context, screenshot
from .test_nodes import BLUE, RED

TAB = "() => window.app?.extensionManager?.sidebarTab?.sidebarTabs.some(({id}) => id === 'xpu-nodes')"
TEN_MORE = """async () => {
    const {events, samples} = await import('/extensions/xpu-nodes/connection.js');
    for (let count = 0; count < 10; count++) {
        events.dispatchEvent(new CustomEvent('sample', {detail: {...samples.at(-1)}}));
    }
}"""
WATCHING = "async () => (await import('/extensions/xpu-nodes/connection.js')).watching()"
ASK_AUTO = """() => {
    const sampler = window.app.graph.nodes.find(({type}) => type === 'XPUKSampler');
    sampler.widgets.find(({name}) => name === 'device').value = 'auto';
}"""
BADGE = re.compile(r"xpu:0 \d+ %, load \d+ %")


@pytest.fixture(scope="module")
def oldest(browser: Browser, server: Server) -> Iterator[Page]:
    context = new_context(browser, server, OLDEST)
    opened = context.new_page()
    opened.goto(f"http://{server.address}")
    opened.wait_for_function(TAB)
    yield opened
    context.close()


@pytest.fixture(scope="module", params=NEWER)
def newer(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[Page]:
    """A newer front end on the same server, with the XPU tab open."""
    context = new_context(browser, server, request.param)
    opened = context.new_page()
    open_panel(opened, server)
    yield opened
    screenshot(opened, f"front-end-{request.param}")
    context.close()


def test_a_front_end_without_a_place_for_the_badge_asks_for_samples_while_the_panel_is_open(oldest: Page) -> None:
    oldest.evaluate(TOGGLE_TAB)
    expect(oldest.locator(".xpu-card")).to_be_visible()
    assert oldest.evaluate(WATCHING) is True
    oldest.evaluate(TOGGLE_TAB)
    eventually(lambda: oldest.evaluate(WATCHING) is False)
    assert oldest.locator(".xpu-badge").count() == 0


def test_nodes_wear_where_they_ran_in_the_oldest_front_end(oldest: Page, server: Server) -> None:
    start(oldest, with_our_nodes(text_to_image(steps=1, seed=41)))
    wait_done(server)
    eventually(lambda: badges(oldest)["XPUVAEDecode"] == [["xpu:0", BLUE]])


def test_a_badge_that_is_not_shown_stops_asking_for_samples_until_it_is_shown_again(page: Page) -> None:
    page.evaluate(TOGGLE_TAB)
    page.evaluate("() => { window.app.extensionManager.focusMode = true; }")
    expect(page.locator(".xpu-badge")).to_be_hidden()
    page.evaluate(TEN_MORE)
    eventually(lambda: page.evaluate(WATCHING) is False)
    page.evaluate("() => { window.app.extensionManager.focusMode = false; }")
    expect(page.locator(".xpu-badge")).to_have_text(BADGE)
    eventually(lambda: page.evaluate(WATCHING) is True)
    page.evaluate(TOGGLE_TAB)
    expect(page.locator(".xpu-card")).to_be_visible()


def test_badge_and_panel_show_the_device_in_newer_front_ends(newer: Page) -> None:
    expect(newer.locator(".xpu-badge")).to_have_text(BADGE)
    expect(newer.locator(".xpu-card")).to_contain_text("Intel Arc B580")
    expect(newer.locator(".xpu-memory")).to_contain_text(re.compile(r"of 12\.0\sGiB"))


def test_a_fault_is_announced_and_its_rung_told_in_newer_front_ends(
    newer: Page, server: Server, simulation: Simulation
) -> None:
    simulation.set_faults({"operator": "convolution", "kind": "out_of_device_memory", "nth": 60})
    try:
        start(newer, with_our_nodes(text_to_image(steps=2, seed=31)))
        told = re.compile(r"xpu:0: .+, step \d\): continued with .+")
        expect(newer.get_by_role("alert").filter(has_text=told).last).to_be_visible(timeout=60_000)
        wait_done(server)
    finally:
        simulation.set_faults()
    (fault,) = server.client.get("/xpu/jobs?limit=1")["jobs"][0]["faults"]
    eventually(lambda: len(badges(newer)["XPUKSampler"]) == 2)
    assert [text for text, _ in badges(newer)["XPUKSampler"]] == ["xpu:0", fault["rung"]]


def test_vue_nodes_wear_where_they_ran_in_newer_front_ends(newer: Page, server: Server) -> None:
    assert_told_on_vue_nodes(newer, server)


def test_vue_nodes_wear_where_they_ran(page: Page, server: Server) -> None:
    assert_told_on_vue_nodes(page, server)


def assert_told_on_vue_nodes(page: Page, server: Server) -> None:
    """Runs a workflow twice on nodes that Vue builds: what they say changes with what happened."""
    setting(page, "Comfy.VueNodes.Enabled", True)
    try:
        workflow = {
            **with_our_nodes(text_to_image(steps=1)),
            "info": REPORT,
        }
        workflow["sampler"]["inputs"]["device"] = "xpu:7"
        start(page, workflow)
        wait_done(server)
        eventually(lambda: badges(page)["XPUKSampler"] == [["xpu:0, not xpu:7", RED]])
        page.evaluate(ASK_AUTO)
        page.evaluate("() => window.app.queuePrompt(0)")
        eventually(lambda: badges(page)["XPUKSampler"] == [["xpu:0", BLUE]])
        wait_done(server)
        eventually(lambda: "Arc(TM) B580" in shown_text(page, "XPUDoctor")[0])
        assert shown_text(page, "XPUDoctor")[1]
    finally:
        setting(page, "Comfy.VueNodes.Enabled", VUE_NODES["Comfy.VueNodes.Enabled"])


def test_a_front_end_with_the_old_form_of_toasts_announces_faults(page: Page) -> None:
    alerts = page.evaluate(
        """async () => {
            const {app} = await import('/scripts/app.js');
            const {events} = await import('/extensions/xpu-nodes/connection.js');
            const manager = app.extensionManager, alerts = [];
            const old = {setting: manager.setting, toast: {addAlert: (text) => alerts.push(text)}};
            Object.defineProperty(app, 'extensionManager', {value: old, configurable: true, writable: true});
            try {
                const fault = {device: 'xpu:0', kind: 'out of memory', stage: 'decode', step: null, rung: ''};
                events.dispatchEvent(new CustomEvent('fault', {detail: fault}));
            } finally {
                Object.defineProperty(app, 'extensionManager', {value: manager, configurable: true, writable: true});
            }
            return alerts;
        }"""
    )
    assert len(alerts) == 1
    assert alerts[0].startswith("xpu:0: out of memory (")
