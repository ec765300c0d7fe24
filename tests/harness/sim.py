"""`make sim`: a ComfyUI server with the pack on a simulated Arc B580, for a person to click through.

The page opens with the example workflow, drawing with the trained checkpoint: Run shows the panel at work.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

from tests.training.checkpoint import NAME

from .demo import SUBJECTS
from .hosts import CACHE, ROOT
from .prepare import LAYOUTS, ensure_models
from .server import PACK_NAME
from .simulated import simulated_server

EXAMPLE = Path(__file__).with_name("sim_workflow.json")


def main(base: Path = CACHE / "sim") -> None:
    """Serves until the server ends or the person does.

    Args:
        base: where pictures and settings are kept.
    """
    packs = {PACK_NAME: ROOT, NAME: _pack(base / "template")}
    models = ensure_models(*LAYOUTS)
    device = {"devices": ["arc-b580"]}
    with simulated_server(base, device, models=models, packs=packs, steady=False) as (server, _):
        page = f"http://{server.address}/?template={NAME}&source={NAME}"
        print(f"ComfyUI on a simulated Arc B580: {page} (Ctrl+C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while server.process.poll() is None:
                time.sleep(1)


def _pack(folder: Path) -> Path:
    """Writes a pack without nodes whose template is the example, with what the checkpoint needs typed in."""
    workflow = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    typed = {node["id"]: node["widgets_values"] for node in workflow["nodes"] if node.get("widgets_values")}
    typed[1][0] = f"{NAME}.safetensors"
    typed[2][0], typed[3][0] = SUBJECTS[0], ""
    typed[5][1], typed[5][3], typed[5][5] = "randomize", 2.0, "simple"
    templates = folder / "example_workflows"
    templates.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n", encoding="utf-8")
    (templates / f"{NAME}.json").write_text(json.dumps(workflow), encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
