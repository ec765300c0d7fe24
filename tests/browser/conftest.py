"""A real headless Chromium on the real front end of a real server, on a simulated Arc B580.

FRONT_END=1.58.1 tests with that front end instead of the host's own, VUE_NODES=1 with nodes that Vue builds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    ViewportSize,
    WebError,
    expect,
    sync_playwright,
)

from tests.harness.front_ends import FRONT_ENDS, ensure_front_end
from tests.harness.hosts import ROOT
from tests.harness.models import ensure_models
from tests.harness.programs import ensure_chromium
from tests.harness.server import PACK_NAME, Server
from tests.harness.simulated import simulated_server
from tests.xpu_sim.control import Client as Simulation

from .acting import open_panel, write_settings

SCREENSHOTS = ROOT / "out" / "screenshots"

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

HOST_SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": "1.32.9", "Comfy.Minimap.Visible": False}
"""What a returning user has: no first-run dialogues in front of the page."""

FRONT_END = os.environ.get("FRONT_END")
VUE_NODES = {"Comfy.VueNodes.Enabled": os.environ.get("VUE_NODES") == "1"}

PACKS = {
    PACK_NAME: ROOT,
    "front-ends": Path(__file__).with_name("front_end_pack"),
    "gguf": Path(__file__).with_name("gguf_pack"),
}


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Simulation]]:
    base = tmp_path_factory.mktemp("browser")
    write_settings(base, {**HOST_SETTINGS, **VUE_NODES})
    models, environment = ensure_models("sd15-tiny"), {"FRONT_ENDS": str(FRONT_ENDS)}
    # The simulation may have to be built first.
    with simulated_server(base, {}, models=models, packs=PACKS, environment=environment, timeout_s=400) as running:
        yield running


@pytest.fixture(scope="session")
def server(machine: tuple[Server, Simulation]) -> Server:
    return machine[0]


@pytest.fixture(scope="session")
def simulation(machine: tuple[Server, Simulation]) -> Simulation:
    return machine[1]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)  # other suites run beside this one
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=ensure_chromium(), args=FLAGS)


@pytest.fixture(scope="session")
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The front end with the XPU tab open; `ERRORS` holds what went wrong in it."""
    context = new_context(browser, server, FRONT_END)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    open_panel(opened, server)
    yield opened
    context.close()


ERRORS: list[str] = []
OURS = re.compile(r"/extensions/xpu-nodes|/xpu/")
DESKTOP: ViewportSize = {"width": 1280, "height": 800}


def new_context(browser: Browser, server: Server, front_end: str | None) -> BrowserContext:
    """A user whose pages are of this front end, the host's own where None, and whose errors are noted."""
    context = browser.new_context(viewport=DESKTOP)
    if front_end:
        ensure_front_end(front_end)
        context.add_cookies([{"name": "front-end", "value": front_end, "url": f"http://{server.address}"}])
    context.on("console", _note)
    context.on("weberror", _note_uncaught)
    return context


def _note(message: ConsoleMessage) -> None:
    """Keeps the errors that concern us: the host has some of its own, such as files that a new user lacks."""
    if message.type == "error" and OURS.search(f"{message.location} {message.text}"):
        ERRORS.append(f"{message.text} ({message.location.get('url')})")


def _note_uncaught(error: WebError) -> None:
    """Keeps what was thrown, but where a front end could not fetch a file of its own."""
    text = f"{error.error} {error.error.stack}"
    if OURS.search(text) or "Failed to fetch" not in text:
        ERRORS.append(text)


@pytest.fixture(autouse=True)
def no_errors(page: Page) -> Iterator[None]:
    """No test may leave an error in the page's console."""
    yield
    found, ERRORS[:] = list(ERRORS), []
    assert found == []


def screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
