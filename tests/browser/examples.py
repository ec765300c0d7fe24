"""`make examples`: the entries of ComfyUI's template browser, and blueprints, written by the real editor.

Each graph is opened, gets a note that names its models, and is saved with a picture of itself: the models are too
large for where this runs, so no picture shows what they draw.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.harness.examples import BLUEPRINTS, EXAMPLES, Blueprint, Example, whole_graph
from tests.harness.hosts import ROOT
from tests.harness.programs import ensure_chromium
from tests.harness.server import PACK_NAME, running_server

from .acting import open_workflow, setting, write_settings
from .conftest import FLAGS, HOST_SETTINGS

FOLDER, BLUEPRINT_FOLDER = ROOT / "example_workflows", ROOT / "subgraphs"
PACKS = {PACK_NAME: ROOT, "gguf": Path(__file__).with_name("gguf_pack")}

NOTE = """([text, files]) => {
    const {graph} = window.app, left = Math.min(...graph.nodes.map(({pos}) => pos[0]));
    for (const node of graph.nodes) {
        const typed = (node.widgets ?? []).map(({value}) => value);
        const needed = files.filter(({name}) => typed.includes(name));
        if (needed.length) node.properties.models = needed;
    }
    const note = window.LiteGraph.createNode("MarkdownNote");
    note.pos = [left - 480, 60];
    note.setSize([440, 340]);
    note.widgets[0].value = text;
    graph.add(note);
}"""

SHOWN = """() => {
    const {graph, canvas: {ds}} = window.app, boxes = graph.nodes.map(({boundingRect}) => boundingRect);
    const edge = (of, pick) => pick(...boxes.map(of));
    const left = edge(([x]) => x, Math.min), top = edge(([, y]) => y, Math.min);
    const right = edge(([x, , width]) => x + width, Math.max), bottom = edge(([, y, , height]) => y + height, Math.max);
    const margin = 24;
    return {
        x: (left + ds.offset[0]) * ds.scale - margin, y: (top + ds.offset[1]) * ds.scale - margin,
        width: (right - left) * ds.scale + 2 * margin, height: (bottom - top) * ds.scale + 2 * margin,
    };
}"""
"""The part of the page that the nodes take."""

SAVED = "() => JSON.parse(JSON.stringify({...window.app.graph.serialize(), extra: {}}))"
"""By way of JSON, as the editor saves: what is undefined is left out, where Playwright would hand on null."""

INTO_ONE = """([name, devices]) => {
    const {graph} = window.app;
    const inner = graph.nodes.filter(({type}) => type in devices);
    const {subgraph, node} = graph.convertToSubgraph(new Set(inner));
    subgraph.name = node.title = name;
    for (const inside of subgraph.nodes) {
        const slot = inside.inputs.find(({name}) => name === "device");
        subgraph.addInput(devices[inside.type], slot.type).connect(slot, inside);
    }
    return [node.id, JSON.parse(JSON.stringify({...graph.serialize(), extra: {}}))];
}"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_settings(Path(folder), HOST_SETTINGS)
        with running_server(Path(folder), packs=PACKS) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=ensure_chromium(), args=FLAGS)
            page = browser.new_page(viewport={"width": 1920, "height": 860})
            page.goto(f"http://{server.address}")
            page.wait_for_selector(".xpu-badge", timeout=120_000)
            setting(page, "LiteGraph.Canvas.LowQualityRenderingZoomThreshold", 0.1)
            setting(page, "LiteGraph.Canvas.MinFontSizeForLOD", 0)
            setting(page, "Comfy.Graph.CanvasInfo", False)
            setting(page, "Comfy.Graph.CanvasMenu", False)
            page.evaluate("() => window.app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
            for name, example in EXAMPLES.items():
                _write_example(page, name, example)
            for name, blueprint in BLUEPRINTS.items():
                _write_blueprint(page, name, blueprint)
            browser.close()


def _write_example(page: Page, name: str, example: Example) -> None:
    open_workflow(page, example.graph, name)
    page.evaluate(NOTE, [example.note(), example.files()])
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(2000)
    _save(FOLDER / f"{name}.json", page.evaluate(SAVED))
    page.screenshot(path=FOLDER / f"{name}.jpg", type="jpeg", quality=80, clip=page.evaluate(SHOWN))


def _write_blueprint(page: Page, name: str, blueprint: Blueprint) -> None:
    """Keeps of the graph the one node that the editor made of the others."""
    open_workflow(page, whole_graph(), name)
    kept, graph = page.evaluate(INTO_ONE, [name, dict(blueprint.devices)])
    (node,) = (entry for entry in graph["nodes"] if entry["id"] == kept)
    graph["definitions"]["subgraphs"][0]["description"] = blueprint.description
    for slot in node["inputs"]:
        slot["link"] = None
    for slot in node["outputs"]:
        slot["links"] = None
    _save(BLUEPRINT_FOLDER / f"{name}.json", {**graph, "nodes": [node], "links": []})


def _save(path: Path, graph: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(graph, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
