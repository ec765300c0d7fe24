"""What our nodes show in the editor: where they ran, what they did about faults, what they report."""

from __future__ import annotations

import json
import re

from playwright.sync_api import Page, expect

from tests.harness.server import Server
from tests.harness.workflows import REPORT, node, text_to_image, with_our_nodes
from tests.xpu_sim.control import Client as Simulation

from .acting import badges, eventually, open_workflow, shown_text, start, wait_done
from .conftest import screenshot

CENTRE = """async (type) => {
    const node = window.app.graph.nodes.find((node) => node.type === type);
    window.app.canvas.ds.scale = 1;
    window.app.canvas.centerOnNode(node);
    window.app.canvas.setDirty(true, true);
    await new Promise((done) => setTimeout(done, 300));
}"""
"""Brings a node into the picture."""

RED, BLUE = "#b3261e", "#1f4d7a"


def test_the_job_shows_where_its_stages_ran_and_the_node_wears_a_red_badge(page: Page, server: Server) -> None:
    workflow = with_our_nodes(text_to_image(steps=1))
    workflow["sampler"]["inputs"]["device"] = "xpu:7"
    start(page, workflow)
    wait_done(server)
    differing = page.locator(".xpu-job .xpu-differs")
    expect(differing).to_have_count(1, timeout=15_000)
    expect(differing).to_contain_text("xpu:7 is not on this machine")
    eventually(lambda: len(badges(page)["XPUVAEDecode"]) == 1)
    assert badges(page)["XPUKSampler"] == [["xpu:0, not xpu:7", RED]]
    assert badges(page)["XPUVAEDecode"] == [["xpu:0", BLUE]]
    page.evaluate(CENTRE, "XPUKSampler")
    screenshot(page, "node-badge")


def test_badges_and_reports_are_there_again_after_a_workflow_is_opened_again(page: Page, server: Server) -> None:
    workflow = {
        **with_our_nodes(text_to_image(steps=1, seed=3)),
        "info": REPORT,
    }
    start(page, workflow)
    wait_done(server)
    eventually(lambda: len(badges(page)["XPUVAEDecode"]) == 1 and "Arc" in shown_text(page, "XPUDoctor")[0])
    worn, text = badges(page), shown_text(page, "XPUDoctor")
    saved = page.evaluate("() => JSON.stringify(window.app.graph.serialize())")
    page.evaluate("() => window.app.loadGraphData()")
    page.evaluate("(saved) => window.app.loadGraphData(JSON.parse(saved))", saved)
    eventually(lambda: badges(page) == worn and shown_text(page, "XPUDoctor") == text)
    page.evaluate("(saved) => window.app.loadGraphData({...JSON.parse(saved), id: crypto.randomUUID()})", saved)
    assert badges(page)["XPUVAEDecode"] == []  # the same nodes in another workflow did not run


def test_a_rung_is_told_on_the_node(page: Page, server: Server, simulation: Simulation) -> None:
    simulation.set_faults({"operator": "convolution", "kind": "out_of_device_memory", "nth": 60})
    try:
        start(page, with_our_nodes(text_to_image(steps=2, seed=12)))
        wait_done(server)
    finally:
        simulation.set_faults()
    eventually(lambda: len(badges(page)["XPUVAEDecode"]) > 0)
    (fault,) = server.client.get("/xpu/jobs?limit=1")["jobs"][0]["faults"]
    assert fault["rung"]
    assert [text for text, _ in badges(page)["XPUKSampler"]] == ["xpu:0", fault["rung"]]


def test_a_report_is_read_on_its_node(page: Page, server: Server) -> None:
    start(page, {"report": REPORT})
    for expected in ("PyTorch is an XPU build", "Intel(R) Arc(TM) B580 Graphics"):
        eventually(lambda expected=expected: expected in shown_text(page, "XPUDoctor")[0], timeout_s=200)
    assert shown_text(page, "XPUDoctor")[1]
    wait_done(server)
    page.evaluate(CENTRE, "XPUDoctor")
    screenshot(page, "XPUDoctor")


def test_a_report_is_neither_sent_nor_saved(page: Page, server: Server) -> None:
    workflow = {
        "info": REPORT,
        "free": node("XPUFreeMemory", anything=["info", 0]),
    }
    workflow["show"] = node("PreviewAny", source=["free", 0])
    start(page, workflow)
    wait_done(server)
    eventually(lambda: "freed" in shown_text(page, "XPUFreeMemory")[0])
    prompt, saved = page.evaluate("async () => [(await app.graphToPrompt()).output, app.graph.serialize()]")
    ours = [entry["inputs"] for entry in prompt.values() if entry["class_type"].startswith("XPU")]
    assert [sorted(inputs) for inputs in ours] == [["run_kernels", "scan_packs"], ["anything"]]
    assert not re.search("Arc", str(saved))


def test_a_doctor_node_keeps_its_own_inputs_when_it_is_saved(page: Page) -> None:
    open_workflow(page, {"doctor": node("XPUDoctor", run_kernels=False, scan_packs=True)})
    saved = page.evaluate("() => JSON.stringify(window.app.graph.serialize())")
    assert json.loads(saved)["nodes"][0]["widgets_values"] == [False, True]
    page.evaluate("(saved) => window.app.loadGraphData(JSON.parse(saved))", saved)
    values = "() => Object.fromEntries(window.app.graph.nodes[0].widgets.map(({name, value}) => [name, value]))"
    assert page.evaluate(values) == {"run_kernels": False, "scan_packs": True, "report": ""}
