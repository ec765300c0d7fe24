"""The panel in a real browser: what it shows is what the simulated device counts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.harness.hosts import ROOT
from tests.harness.server import Server
from tests.harness.workflows import text_to_image, with_our_nodes
from tests.xpu_sim.control import Client as Simulation

from .acting import TOGGLE_TAB, badges, busy, eventually, sampled, setting, start, wait_done
from .conftest import screenshot

NEWEST = "jobs?limit=1"
UNITS = {"MiB": 2**20, "GiB": 2**30}


def shown_bytes(page: Page, what: str) -> float:
    """A figure of the first card: "here 612 MiB"."""
    text = page.inner_text(".xpu-memory")
    found = re.search(rf"{what} ([\d.]+)\s([MG]iB)", text)
    assert found, text
    return float(found[1]) * UNITS[found[2]]


def answer_with(data: object) -> Callable[[Route], None]:
    """A handler of requests that always answers the same."""
    return lambda route: route.fulfill(json=data)


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
    setting(page, "xpu-nodes.interval", 0.5)
    server.client.post("/free", {"unload_models": True, "free_memory": True})
    eventually(lambda: shown_bytes(page, "here") < 100 << 20)
    start(page, with_our_nodes(text_to_image(steps=10_000)))  # until it is interrupted, however slow the page is

    def agrees() -> bool:
        asked_at, before = time.time(), simulation.statistics().devices[0].reserved_bytes
        eventually(lambda: sampled(page)["taken_at"] > asked_at)
        shown = sampled(page)["devices"][0]["memory"]["own_bytes"]
        if before != simulation.statistics().devices[0].reserved_bytes:
            return False  # the sample lies between two states
        assert shown == pytest.approx(before, rel=0.02)
        return busy(server)

    eventually(lambda: shown_bytes(page, "here") > 100 << 20)
    screenshot(page, "panel-running")
    for _ in range(3):
        eventually(agrees)
    server.client.post("/interrupt", {})
    wait_done(server)
    start(page, with_our_nodes(text_to_image()))
    wait_done(server)
    setting(page, "xpu-nodes.interval", 2)
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
    why = page.locator(".xpu-missing")
    expect(temperature).to_have_text("48 °C")
    simulation.change_device(0, telemetry={**readings, "temperature_c": None})
    expect(temperature).to_have_text("–", timeout=15_000)
    why.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(why.locator("li")).to_contain_text("torch.xpu.temperature")
    expect(why.locator("li")).to_be_visible()
    simulation.change_device(0, telemetry=readings)
    expect(temperature).to_have_text("48 °C", timeout=15_000)
    expect(why).to_be_hidden()
    expect(page.locator(".xpu-source")).to_have_text("Memory by torch")


def test_a_stage_is_shown_where_it_runs_while_it_runs(page: Page, server: Server) -> None:
    start(page, with_our_nodes(text_to_image(steps=10_000, seed=11)))
    running = page.locator(".xpu-job .xpu-running", has_text="sample")
    expect(running).to_contain_text("xpu:0 · fp16 · running", timeout=60_000)
    assert busy(server)
    page.evaluate("() => window.app.api.interrupt()")
    stopped = page.locator(".xpu-job .xpu-stopped", has_text="sample")
    expect(stopped).to_contain_text("stopped", timeout=60_000)
    expect(running).to_have_count(0)
    wait_done(server)


def test_a_fault_shows_its_toast_and_stays_in_the_job(page: Page, server: Server, simulation: Simulation) -> None:
    simulation.set_faults({"operator": "convolution", "kind": "out_of_device_memory", "nth": 60})
    try:
        start(page, with_our_nodes(text_to_image(steps=6, seed=8)))
        told = re.compile(r"xpu:0: .+ \(sample, step \d\): continued with .+")
        expect(page.get_by_role("alert").filter(has_text=told).last).to_be_visible(timeout=60_000)
        expect(page.locator(".xpu-job .xpu-fault")).to_contain_text("continued with")
        screenshot(page, "fault-toast")
    finally:
        simulation.set_faults()
    wait_done(server)


def test_the_switch_is_offered_once_and_protected_nodes_of_comfyui_wear_badges(page: Page, server: Server) -> None:
    switch, offer = (
        page.get_by_role("switch", name="Protect every workflow"),
        page.get_by_role("button", name="Not now"),
    )
    expect(offer).to_be_visible()
    switch.click()
    expect(switch).to_be_checked()
    expect(offer).to_be_hidden()
    start(page, text_to_image(steps=1, seed=21))
    wait_done(server)
    eventually(lambda: ["xpu:0", "#1f4d7a"] in badges(page, "KSampler")["KSampler"])
    screenshot(page, "switched-on")
    switch.click()
    eventually(lambda: server.client.get("/settings")["xpu-nodes.protect"] is False)
    expect(switch).not_to_be_checked()
    expect(offer).to_be_hidden()
    start(page, text_to_image(steps=1, seed=22))
    wait_done(server)
    assert not any(text == "xpu:0" for text, _ in badges(page, "KSampler")["KSampler"])


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


def test_a_fault_is_told_in_the_user_s_language(page: Page) -> None:
    say = """async ([locale, fault]) => {
        await window.app.extensionManager.setting.set("Comfy.Locale", locale);
        await (await import("/extensions/xpu-nodes/texts.js")).loadTexts();
        return (await import("/extensions/xpu-nodes/job.js")).faultText(fault);
    }"""
    fault = {
        "kind": "out of memory",
        "stage": "sample",
        "step": 3,
        "rung": "395 MiB freed",
        "rung_name": "memory freed",
    }
    try:
        german = "kein Speicher mehr frei (Sampling, Schritt 3): weiter mit freigegebenem Speicher"
        assert page.evaluate(say, ["de", fault]) == german
    finally:
        english = page.evaluate(say, ["en", fault])
    assert english == "out of memory (sample, step 3): continued with 395 MiB freed"


def test_a_note_is_shown_without_a_warning(page: Page) -> None:
    stage = {"name": "decode", "requested": "auto", "effective": "xpu:0", "precision": "fp16", "seconds": 1.0}
    stage |= {"peak_bytes": None, "state": "done", "reason": "", "notes": ["in tiles of 512x512 pixels"]}
    jobs = re.compile("/xpu/jobs")
    page.route(jobs, answer_with({"jobs": [{"stages": [stage], "faults": []}]}))
    page.evaluate(
        """async () => {
            const {events} = await import('/extensions/xpu-nodes/connection.js');
            events.dispatchEvent(new CustomEvent('placement', {detail: {}}));
        }"""
    )
    expect(page.locator(".xpu-job li")).to_contain_text(["in tiles of 512x512 pixels"])  # alone
    expect(page.locator(".xpu-job .xpu-differs")).to_have_count(0)
    page.unroute(jobs)


def test_a_report_names_no_folder_and_no_user(page: Page) -> None:
    scrub = "async (text) => (await import('/extensions/xpu-nodes/scrub.js')).scrub(text)"
    for text, expected in SCRUBBED.items():
        assert page.evaluate(scrub, text) == expected
    named = "cannot read /home/anna/models/sd15.safetensors nor C:\\Users\\anna\\models\\sd15.safetensors"
    fault = {"kind": "corrupt file", "device": "xpu:0", "stage": "load", "rung": "", "step": None, "message": named}
    job = {"prompt_id": "p", "started_at": 0, "stages": [], "faults": [fault], "seconds": 0, "peak_bytes": None}
    hooks = [{"name": "attention", "state": "unavailable", "reason": named}]
    rejected = [{"what": "xpu:1", "why": named, "fix": ""}]
    devices = [{"id": "xpu:0", "uuid": "8680", "pci_address": "0000:03:00.0"}]
    inventory = {"devices": devices, "rejected": rejected}
    answers: dict[str, object] = {"jobs": {"jobs": [job]}, "hooks": {"hooks": hooks}, "devices": inventory}
    for name, data in answers.items():
        page.route(re.compile(f"/xpu/{name}"), answer_with(data))
    report = page.evaluate(
        """async (why) => {
            const {samples} = await import('/extensions/xpu-nodes/connection.js');
            const {report} = await import('/extensions/xpu-nodes/report.js');
            const last = structuredClone(samples.at(-1));
            last.devices[0].missing.x = why;
            last.taken_at = Infinity;  // no newer one comes before the report has read it
            samples.push(last);
            const text = await report();
            samples.splice(samples.indexOf(last), 1);
            return text;
        }""",
        named,
    )
    for name in answers:
        page.unroute(re.compile(f"/xpu/{name}"))
    assert report.count("sd15.safetensors") == 8
    assert not re.search(r"anna|home|Users|C:|models[/\\]|8680|0000:03", report)


SCRUBBED = {
    "no /home/anna": "no /~",
    "no '/home/anna/x y/z.py', line 3": "no '…/x y/z.py', line 3",
    "/home/Anna Berg/z.py": "…/z.py",
    "C:\\Users\\Anna Berg\\z.py": "…/z.py",
    "'C:\\\\Users\\\\anna\\\\z.py'": "'…/z.py'",
    "D:/models/z.py": "…/z.py",
    "(/opt/models/z.py:12)": "(…/z.py:12)",
    "see https://example.org/a/b": "see https://example.org/a/b",
    "1/2 of 3.0/4.0 GiB, and/or/else": "1/2 of 3.0/4.0 GiB, and/or/else",
}


def test_a_finding_offers_its_fix_to_copy(page: Page) -> None:
    finding = page.locator(".xpu-finding", has_text="pyzes")
    finding.locator("summary").click()
    fix = finding.locator("pre").inner_text()
    finding.get_by_role("button").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == fix
    assert "install" in fix


def test_a_finding_leads_to_the_address_that_the_project_has(page: Page) -> None:
    (repository,) = re.findall(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    link = page.locator(".xpu-finding a").first.get_attribute("href") or ""
    path, _, anchor = link.removeprefix(f"{repository}/blob/main/").partition("#")
    assert anchor in (ROOT / path).read_text()


def test_the_panel_works_by_keyboard_and_names_its_parts(page: Page) -> None:
    page.get_by_role("button", name="Free memory").focus()
    page.keyboard.press("Tab")
    copy = page.locator(".xpu-actions button").last
    expect(copy).to_be_focused()
    page.keyboard.press("Enter")
    expect(copy).to_have_text("Copied")
    expect(copy).to_be_focused()
    finding = page.locator(".xpu-finding").first
    finding.evaluate("details => { details.open = false }")  # an earlier test may have left it open
    finding.locator("summary").focus()
    page.keyboard.press("Space")
    expect(finding.locator("p").first).to_be_visible()
    page.keyboard.press("Space")
    expect(finding.locator("p").first).to_be_hidden()
    expect(page.get_by_role("img", name=re.compile(r"Memory of xpu:0: now \d+\s%, at most"))).to_be_visible()
    meter = page.get_by_role("meter", name="Memory of xpu:0")
    assert re.match(r"here .+ others .+ of 12\.0\sGiB", meter.get_attribute("aria-valuetext") or "")
    expect(page.get_by_role("region", name="Latest job")).to_be_visible()
    badge = page.get_by_role("button", name=re.compile(r"XPU: xpu:0 \d+ %, load \d+ %"))
    expect(badge).to_have_class(re.compile("xpu-badge"))


def test_a_button_keeps_the_focus_while_it_works(page: Page) -> None:
    held: list[Route] = []
    page.route("**/xpu/doctor?kernels=true", lambda route: held.append(route))
    examine = page.get_by_role("button", name="Examine thoroughly")
    examine.focus()
    page.keyboard.press("Enter")
    eventually(lambda: page.evaluate("() => document.activeElement.getAttribute('aria-disabled')") == "true")
    page.keyboard.press("Enter")
    expect(examine).to_be_focused()
    assert len(held) == 1
    held[0].fulfill(json={"findings": []})
    page.unroute("**/xpu/doctor?kernels=true")
    expect(page.locator(".xpu-doctor")).to_contain_text("All 0 checks passed")
    expect(examine).to_be_focused()
    page.evaluate(TOGGLE_TAB)  # opened again, it asks the doctor again
    page.evaluate(TOGGLE_TAB)
    expect(page.locator(".xpu-finding").first).to_be_visible()


def test_a_hidden_page_stops_asking_and_a_closed_panel_with_no_badge_too(page: Page) -> None:
    timers = "async () => (await import('/extensions/xpu-nodes/connection.js')).watching()"
    assert page.evaluate(timers) is True
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    page.evaluate(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
    eventually(lambda: page.evaluate(timers) is False)
    asked: list[Request] = []

    def note(request: Request) -> None:
        asked.append(request)

    page.on("request", note)
    happen = "async () => (await import('/extensions/xpu-nodes/connection.js')).events.dispatchEvent(%s)"
    page.evaluate(happen % "new CustomEvent('placement', {detail: {}})")
    assert [request.url for request in asked if "/xpu/" in request.url] == []
    page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    eventually(lambda: page.evaluate(timers) is True)
    eventually(lambda: [request.url.split("/xpu/")[1] for request in asked if "/xpu/jobs" in request.url] == [NEWEST])
    page.remove_listener("request", note)
    setting(page, "xpu-nodes.badge", False)
    expect(page.locator(".xpu-badge")).to_be_hidden()
    assert page.evaluate(timers) is True  # the panel still shows
    page.evaluate(TOGGLE_TAB)
    eventually(lambda: page.evaluate(timers) is False)
    setting(page, "xpu-nodes.badge", True)
    eventually(lambda: page.evaluate(timers) is True)
    page.evaluate(TOGGLE_TAB)
    expect(page.locator(".xpu-card")).to_be_visible()


def test_a_host_that_cannot_be_read_is_said_and_nothing_else_is_lost(page: Page) -> None:
    shown = """async () => {
        const {Cards} = await import('/extensions/xpu-nodes/cards.js');
        const {samples} = await import('/extensions/xpu-nodes/connection.js');
        const cards = new Cards();
        cards.update({...samples.at(-1), host: null, host_problem: 'psutil: no /proc'});
        return cards.element.textContent;
    }"""
    text = page.evaluate(shown)
    assert "RAM and CPU cannot be read: psutil: no /proc" in text
    assert "Intel Arc B580" in text


def test_a_restart_with_the_queue_is_offered_while_it_helps(page: Page) -> None:
    again = """async () => (await import("/extensions/xpu-nodes/connection.js"))
        .events.dispatchEvent(new Event("reconnected"))"""
    answers = {"GET": (200, {"reason": "xpu:0 is lost: gone."}), "POST": (202, {"kept": 2})}

    def answer(route: Route) -> None:
        status, body = answers[route.request.method]
        route.fulfill(status=status, json=body)

    offer = page.locator(".xpu-restart")
    expect(offer).to_be_hidden()
    page.route("**/xpu/restart", answer)
    try:
        page.evaluate(again)
        expect(offer).to_contain_text("xpu:0 is lost: gone. The prompts that run and wait are kept")
        offer.get_by_role("button", name="Restart with the queue").click()
        expect(offer).to_contain_text("ComfyUI restarts, prompts kept: 2.")
    finally:
        page.unroute("**/xpu/restart")
    page.evaluate(again)
    expect(offer).to_be_hidden()
