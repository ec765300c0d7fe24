"""What the real editor sends to ComfyUI for a workflow: subgraphs opened, what is bypassed left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Page, sync_playwright

from tests.browser.acting import write_settings
from tests.browser.conftest import FLAGS, HOST_SETTINGS
from tests.harness.programs import ensure_chromium
from tests.harness.server import running_server

SENT = """async (graph) => {
    await window.app.loadGraphData(graph, true, false, null, {showMissingNodesDialog: false});
    return (await window.app.graphToPrompt()).output;
}"""

Prompt = dict[str, dict[str, Any]]


def prompts(workflows: Mapping[str, Mapping[str, Any]], host: Path, base: Path) -> Iterator[tuple[str, Prompt | str]]:
    """Each workflow as this ComfyUI's own front end sends it, or why it cannot.

    Args:
        base: an empty folder for the server.
    """
    write_settings(base, HOST_SETTINGS)
    with running_server(base, host=host) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=ensure_chromium(), args=FLAGS)
        page = _opened(browser.new_page(), server.address)
        for name, workflow in workflows.items():
            try:
                yield name, page.evaluate(SENT, workflow)
            except Error as error:
                page.close()
                page = _opened(browser.new_page(), server.address)
                yield name, f"the editor cannot open it: {str(error).splitlines()[0]}"
        browser.close()


def _opened(page: Page, address: str) -> Page:
    page.goto(f"http://{address}")
    page.wait_for_selector(".xpu-badge", timeout=120_000)
    return page
