"""Other front ends than the one of the default host: what they lack is done without."""

from __future__ import annotations

import mimetypes
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.harness.hosts import CACHE
from tests.harness.server import Server

from .acting import TOGGLE_TAB, eventually

OLDEST = "1.25.10"
"""The front end of ComfyUI 0.3.52, the oldest host that is supported."""

TAB = "() => window.app?.extensionManager?.sidebarTab?.sidebarTabs.some(({id}) => id === 'xpu-nodes')"
SAMPLES = "async () => (await import('/extensions/xpu-nodes/connection.js')).samples.length"
TEN_MORE = """async () => {
    const {events, samples} = await import('/extensions/xpu-nodes/connection.js');
    for (let count = 0; count < 10; count++) {
        events.dispatchEvent(new CustomEvent('sample', {detail: samples.at(-1)}));
    }
}"""
WATCHING = "async () => (await import('/extensions/xpu-nodes/connection.js')).watching()"


@pytest.fixture(scope="module")
def oldest_files() -> Path:
    """The static files of the oldest front end, from its package."""
    target = CACHE / "front-ends" / OLDEST
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            command = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch)
            subprocess.run([*command, f"comfyui-frontend-package=={OLDEST}"], check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            unpacked = Path(scratch) / "unpacked"
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
            unpacked.rename(target)
    return target / "comfyui_frontend_package" / "static"


@pytest.fixture(scope="module")
def oldest(browser: Browser, server: Server, oldest_files: Path) -> Iterator[Page]:
    """The oldest front end on the same server: its files are answered in place of the server's."""
    context = browser.new_context()
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))

    def serve(route: Route) -> None:
        path = route.request.url.split(server.address, 1)[1].partition("?")[0].lstrip("/") or "index.html"
        file = oldest_files / path
        if file.is_file():
            route.fulfill(body=file.read_bytes(), content_type=mimetypes.guess_type(path)[0])
        else:
            route.continue_()

    opened.route(f"http://{server.address}/**", serve)
    opened.goto(f"http://{server.address}")
    opened.wait_for_function(TAB)
    yield opened
    context.close()
    assert problems == []


def test_a_front_end_without_a_place_for_the_badge_stops_asking_for_samples(oldest: Page) -> None:
    assert oldest.locator(".xpu-badge").count() == 0
    eventually(lambda: oldest.evaluate(SAMPLES) > 0)
    assert oldest.evaluate(WATCHING) is True
    oldest.evaluate(TEN_MORE)
    eventually(lambda: oldest.evaluate(WATCHING) is False)


def test_the_panel_opens_in_the_oldest_front_end(oldest: Page) -> None:
    oldest.evaluate(TOGGLE_TAB)
    expect(oldest.locator(".xpu-card")).to_be_visible()


def test_a_front_end_with_the_old_form_of_toasts_announces_faults(page: Page) -> None:
    alerts = page.evaluate(
        """async () => {
            const {app} = await import('/scripts/app.js');
            const {events} = await import('/extensions/xpu-nodes/connection.js');
            const manager = app.extensionManager, alerts = [];
            const old = {setting: manager.setting, toast: {addAlert: (text) => alerts.push(text)}};
            Object.defineProperty(app, 'extensionManager', {value: old, configurable: true, writable: true});
            try {
                events.dispatchEvent(new CustomEvent('fault', {detail: {text: 'xpu:0: out of memory', rung: ''}}));
            } finally {
                Object.defineProperty(app, 'extensionManager', {value: manager, configurable: true, writable: true});
            }
            return alerts;
        }"""
    )
    assert alerts == ["xpu:0: out of memory"]
