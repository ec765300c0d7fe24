"""What tests and pictures do in the page: run workflows, wait for what they wait for, look at what the page holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.harness.server import Server

TOGGLE_TAB = "() => window.app.extensionManager.command.execute('Workspace.ToggleSidebarTab.xpu-nodes')"


def write_settings(base: Path, settings: Mapping[str, object]) -> None:
    """Gives a server's only user these settings, before it starts."""
    file = base / "user" / "default" / "comfy.settings.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(settings))


def open_panel(page: Page, server: Server) -> None:
    """Opens the front end, and in it the XPU tab."""
    page.goto(f"http://{server.address}")
    page.wait_for_selector(".xpu-badge", timeout=60_000)
    advertisement = page.get_by_role("button", name="Try it out").locator("xpath=../..").get_by_role("button").last
    if advertisement.is_visible():
        advertisement.click()
    page.click(".xpu-badge")
    page.wait_for_selector(".xpu-card")


def open_workflow(page: Page, workflow: dict[str, Any], name: str = "Lighthouse") -> None:
    page.evaluate("([graph, name]) => window.app.loadApiJson(graph, name)", [workflow, name])


def start(page: Page, workflow: dict[str, Any], name: str = "Lighthouse") -> None:
    """Opens a workflow in the front end and runs it as its own button does."""
    open_workflow(page, workflow, name)
    page.evaluate("() => window.app.queuePrompt(0)")


def busy(server: Server) -> bool:
    queue = server.client.get("/queue")
    return bool(queue["queue_running"] or queue["queue_pending"])


def wait_done(server: Server, *, timeout_s: float = 300) -> None:
    eventually(lambda: not busy(server), timeout_s=timeout_s)


def eventually(condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def sampled(page: Page) -> dict[str, Any]:
    """The sample that the page shows, as its own modules hold it."""
    result: dict[str, Any] = page.evaluate(
        "async () => (await import('/extensions/xpu-nodes/connection.js')).samples.at(-1)"
    )
    return result


def setting(page: Page, name: str, value: object) -> None:
    page.evaluate("([name, value]) => window.app.extensionManager.setting.set(name, value)", [name, value])


def badges(page: Page, types: str = "XPU") -> dict[str, list[list[str]]]:
    """Text and colour of the badges that nodes wear whose type begins so: drawn ones, or those that Vue built."""
    result: dict[str, list[list[str]]] = page.evaluate(
        """(types) => {
            const hex = (colour) => "#" + (colour.match(/\\d+/g) ?? []).slice(0, 3)
                .map((part) => Number(part).toString(16).padStart(2, "0")).join("");
            const drawn = ({badges}) => badges.map((badge) => (typeof badge === "function" ? badge() : badge))
                .map(({text, bgColor}) => [text, bgColor]);
            const built = ({id}) => [...document.querySelectorAll(
                `[data-node-id="${id}"] [style*="background-color"]:not(:has(*))`
            )].map((element) => [element.textContent.trim(), hex(element.style.backgroundColor)]);
            const worn = window.LiteGraph.vueNodesMode ? built : drawn;
            return Object.fromEntries(window.app.graph.nodes.filter(({type}) => type.startsWith(types)).map(
                (node) => [node.type, worn(node).filter(([text]) => text && !text.endsWith("xpu-nodes"))]));
        }""",
        types,
    )
    return result


def shown_text(page: Page, node_type: str) -> tuple[str, bool]:
    """What a report node shows, and whether nobody can write it."""
    text, read_only = page.evaluate(
        """(type) => {
            const {id, widgets} = window.app.graph.nodes.find((node) => node.type === type);
            const built = document.querySelector(`[data-node-id="${id}"] textarea`);
            const {value, readOnly} = built ?? widgets.find(({name}) => name === 'report').inputEl;
            return [value, readOnly];
        }""",
        node_type,
    )
    return text, read_only
