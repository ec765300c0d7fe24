"""Takes the pictures of the documentation: the real editor on two simulated devices.

    python -m tests.browser.pictures

Load, temperature and power are a curve that the simulated Sysman answers with, since the simulation itself computes
on the CPU; the doctor's findings are those of a described machine with these cards, since the simulation has none on
its PCI bus. Everything else is what a run shows.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, ViewportSize, sync_playwright

from tests.harness.hosts import ROOT, host_environment
from tests.harness.models import ensure_models
from tests.harness.programs import ensure_chromium
from tests.harness.server import Server
from tests.harness.simulated import simulated_server
from tests.harness.workflows import REPORT, text_to_image, with_our_nodes
from tests.training.checkpoint import NAME
from tests.unit.healthy_machine import A770, inventory, machine
from tests.unit.recorded import b580, xpu
from tests.xpu_sim.control import Client as Simulation
from xpu_utils.doctor.examine import as_data, examine
from xpu_utils.doctor.machine import Gpu

from .acting import busy, open_panel, setting, start, wait_done, write_settings
from .conftest import FLAGS, HOST_SETTINGS

IMAGES = ROOT / "docs" / "images"
SYSMAN = ROOT / "tests" / "sim_host" / "sysman"
WINDOW: ViewportSize = {"width": 1440, "height": 940}
GIB = 1 << 30

PLACES = {
    "XPULoadCheckpoint": (0, 0),
    "EmptyLatentImage": (0, 250),
    "CLIPTextEncode": (300, 0),
    "XPUKSampler": (670, 0),
    "XPUVAEDecode": (970, 0),
    "XPUDoctor": (0, 470),
    "SaveImage": (670, 420),
}
"""Where the nodes stand, so that the window holds those that matter at a zoom at which they can be read."""

ARRANGE = """(places) => {
    const sizes = {
        CLIPTextEncode: [330, 180], XPUVAEDecode: [230, 120], XPUDoctor: [640, 330], SaveImage: [260, 330],
    };
    const seen = {};
    for (const node of window.app.graph.nodes) {
        const [x, y] = places[node.type];
        seen[node.type] = (seen[node.type] ?? -1) + 1;
        node.pos = [x, y + seen[node.type] * 230];
        if (node.type in sizes) node.setSize(sizes[node.type]);
    }
    const {canvas} = window.app;
    canvas.ds.scale = 0.8;
    canvas.ds.offset = [604, 225];
    canvas.setDirty(true, true);
}"""

STEPS = 24

ASK_DECODER = """(device) => {
    const decoder = window.app.graph.nodes.find(({type}) => type === 'XPUVAEDecode');
    decoder.widgets.find(({name}) => name === 'device').value = device;
}"""

CLOSE_OTHERS = """async () => {
    const store = window.app.extensionManager.workflow;
    for (const other of store.openWorkflows.filter((open) => open !== store.activeWorkflow)) {
        await store.closeWorkflow(other);
    }
}"""


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        _server(Path(folder)) as (server, simulation),
        _page(server) as page,
        _life(simulation),
    ):
        _warm_up(page, server)
        _take_panel(page, server)
        _take_light(page)
        _take_fault(page, server, simulation)


def _warm_up(page: Page, server: Server) -> None:
    """Opens the workflow and runs it once; the charts fill meanwhile."""
    workflow = with_our_nodes(text_to_image(f"{NAME}.safetensors", steps=STEPS, size=256, cfg=2.0))
    workflow["sampler"]["inputs"]["scheduler"] = "simple"
    workflow["decode"]["inputs"]["device"] = "xpu:1"
    workflow["positive"]["inputs"]["text"] = "octopus"
    workflow["negative"]["inputs"]["text"] = ""
    workflow["info"] = REPORT
    start(page, workflow, "Octopus")
    page.evaluate(CLOSE_OTHERS)
    page.evaluate(ARRANGE, PLACES)
    wait_done(server)
    page.wait_for_timeout(12_000)


def _take_panel(page: Page, server: Server) -> None:
    """While it samples on one device; the decoder is to run on the other."""
    _run_again(page)
    page.wait_for_selector(".xpu-job .xpu-running:has-text('sample')", timeout=60_000)
    page.wait_for_timeout(4000)
    assert busy(server)
    _save(page, "panel")
    wait_done(server)


def _take_light(page: Page) -> None:
    setting(page, "Comfy.ColorPalette", "light")
    page.wait_for_timeout(4000)  # the host's own "job completed" is gone by then
    _save(page, "panel-light")
    setting(page, "Comfy.ColorPalette", "dark")


def _take_fault(page: Page, server: Server, simulation: Simulation) -> None:
    """A device that runs out of memory, and a decoder that was asked to run on one that is not there."""
    simulation.set_faults({"operator": "convolution", "kind": "out_of_device_memory", "nth": 6})
    page.evaluate(ASK_DECODER, "xpu:7")
    _run_again(page)
    page.wait_for_selector(".xpu-job .xpu-fault", timeout=120_000)
    wait_done(server)
    page.wait_for_selector(".xpu-job .xpu-differs")
    page.locator(".xpu-job .xpu-fault").scroll_into_view_if_needed()
    _save(page, "fault")
    simulation.set_faults()


def _run_again(page: Page) -> None:
    """Runs what is open; its seed is another one each time."""
    page.evaluate("() => window.app.queuePrompt(0)")


def _save(page: Page, name: str) -> None:
    page.mouse.move(WINDOW["width"] - 5, WINDOW["height"] // 2)
    page.screenshot(path=IMAGES / f"{name}.png")


@contextlib.contextmanager
def _server(base: Path) -> Iterator[tuple[Server, Simulation]]:
    write_settings(base, {**HOST_SETTINGS, "xpu-nodes.interval": 0.5})
    path = os.pathsep.join([str(SYSMAN), host_environment()["PYTHONPATH"]])
    config = {"devices": ["arc-b580", "arc-a770"]}
    with simulated_server(base, config, models=ensure_models(NAME), environment={"PYTHONPATH": path}) as running:
        yield running


@contextlib.contextmanager
def _page(server: Server) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=ensure_chromium(), args=FLAGS)
        page = browser.new_page(viewport=WINDOW)
        page.route("**/xpu/doctor*", lambda route: route.fulfill(json={"findings": _findings()}))
        open_panel(page, server)
        _widen_sidebar(page, 130)
        yield page
        browser.close()


def _widen_sidebar(page: Page, pixels: int) -> None:
    edge = page.locator(".p-splitter-gutter").first.bounding_box()
    assert edge is not None
    x, y = edge["x"] + edge["width"] / 2, edge["y"] + edge["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=4)
    page.mouse.up()


def _findings() -> list[dict[str, Any]]:
    cards = (Gpu(0xE20B, "xe", 12 * GIB, integrated=False), A770)
    return as_data(examine(machine(gpus=cards, inventory=inventory(b580(), xpu(index=1)))), "debian")


@contextlib.contextmanager
def _life(simulation: Simulation) -> Iterator[None]:
    """Has load, temperature and power go up and down until the block ends."""
    over = threading.Event()

    def live() -> None:
        step = 0
        while not over.wait(0.5):
            step += 1
            for index, (load, watts, degrees, gib) in enumerate(((88, 132, 63, 3.1), (41, 74, 49, 1.7))):
                swing = math.sin(step / (3 + index)) + 0.4 * math.sin(step * 1.7 + index)
                telemetry = {
                    "utilization_percent": max(2.0, min(100.0, load + 9 * swing)),
                    "power_draw_w": watts + 14 * swing,
                    "temperature_c": degrees + 3 * math.sin(step / 12),
                    "clock_rate_mhz": float(round(2600 - 250 * index + 40 * swing)),
                }
                other = int((gib + 0.35 * math.sin(step / 9)) * GIB)
                simulation.change_device(index, telemetry=telemetry, other_process_bytes=other)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
