"""A real headless Chromium on the real front end of a real server, on a simulated Arc B580."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize, expect, sync_playwright

from tests.harness.hosts import ROOT
from tests.harness.models import ensure_models
from tests.harness.programs import ensure_chromium
from tests.harness.server import Server
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


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Simulation]]:
    base = tmp_path_factory.mktemp("browser")
    write_settings(base, HOST_SETTINGS)
    # The simulation may have to be built first.
    with simulated_server(base, {}, models=ensure_models("sd15-tiny"), timeout_s=400) as running:
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
    context = browser.new_context(viewport=DESKTOP)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    opened.on("console", _note)
    opened.on("pageerror", lambda error: ERRORS.append(str(error)))
    open_panel(opened, server)
    yield opened
    context.close()


ERRORS: list[str] = []
DESKTOP: ViewportSize = {"width": 1280, "height": 800}


def _note(message: ConsoleMessage) -> None:
    """Keeps the errors that concern us: the host has some of its own, such as files that a new user lacks."""
    if message.type == "error" and re.search(r"/extensions/xpu-nodes|/xpu/", f"{message.location} {message.text}"):
        ERRORS.append(f"{message.text} ({message.location.get('url')})")


@pytest.fixture(autouse=True)
def no_errors(page: Page) -> Iterator[None]:
    """No test may leave an error in the page's console."""
    yield
    found, ERRORS[:] = list(ERRORS), []
    assert found == []


def screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
