"""`python -m tests.harness.gallery`: what faults look like without the pack and with it, in docs/images/faults.png.

The trained checkpoint draws on two simulated cards, the same prompt for each fault, which meets it in its fourth step.
"""

from __future__ import annotations

import io
import shutil
import textwrap
from pathlib import Path

import websocket
from PIL import Image, ImageDraw

from tests.training.checkpoint import NAME
from tests.xpu_sim.control import Client as Simulation

from .demo import LOST_STEP, SUBJECTS, Drawn, contact_sheet, example
from .hosts import CACHE, ROOT
from .models import ensure_models
from .server import PACK_NAME, Server
from .simulated import simulated_server
from .workflows import Workflow, with_stock_nodes

PICTURE = ROOT / "docs" / "images" / "faults.png"
BASE = CACHE / "gallery"

PATIENCE_S = 90
"""For a prompt; the thread of a ComfyUI whose card was lost may have ended."""

FAULTS = {
    "the card is full": "out_of_device_memory",
    "a result is NaN": "nan",
    "an operation is refused": "invalid_argument",
    "the card is lost": "device_lost",
}
"""What happens -> the simulation's kind of fault; a lost card comes last, as it stays away."""


def main() -> None:
    shutil.rmtree(BASE, ignore_errors=True)
    ours = [example("auto", NAME, subject) for subject in SUBJECTS[:2]]
    rows = {"ComfyUI": _row({}, *map(with_stock_nodes, ours)), "with XPU Nodes": _row({PACK_NAME: ROOT}, *ours)}
    sheets = [
        contact_sheet([(f"{name}: {caption}", picture) for caption, picture in row]) for name, row in rows.items()
    ]
    whole = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)), "white")
    for index, sheet in enumerate(sheets):
        whole.paste(sheet, (0, index * sheet.height))
    whole.save(PICTURE, optimize=True)
    print(f"wrote {PICTURE.relative_to(ROOT)}")


def _row(packs: dict[str, Path], workflow: Workflow, following: Workflow) -> list[Drawn]:
    """What comes of the prompt undisturbed and with each fault, and of the one that follows the loss of the card."""
    cards = {"devices": ["arc-b580", "arc-b580"]}
    base = BASE / ("ours" if packs else "stock")
    arguments = ("--cache-none",)  # every prompt samples
    with simulated_server(base, cards, models=ensure_models(NAME), packs=packs, arguments=arguments) as machine:
        row = [("undisturbed", _draw(*machine, workflow, None))]
        row += [(caption, _draw(*machine, workflow, kind)) for caption, kind in FAULTS.items()]
        return [*row, ("the next prompt", _draw(*machine, following, None))]


def _draw(server: Server, simulation: Simulation, workflow: Workflow, kind: str | None) -> Image.Image:
    """The picture, or a page with the error."""
    fault = {"operator": "aten::convolution", "kind": kind, "device": 0, "nth": LOST_STEP}
    simulation.set_faults(*([fault] if kind else []))
    try:
        result = server.client.run(workflow, timeout_s=PATIENCE_S)
    except (TimeoutError, websocket.WebSocketTimeoutException):
        return _page(f"no answer within {PATIENCE_S} s")
    assert any(simulation.statistics().faults_fired) == (kind is not None)
    if result.error is None:
        return Image.open(io.BytesIO(server.client.image(result, "save"))).convert("RGB")
    return _page(result.message.split("\n")[0])


def _page(message: str) -> Image.Image:
    page = Image.new("RGB", (256, 256), "#fbe9e7")
    text = "\n".join(textwrap.wrap(message, 34))
    ImageDraw.Draw(page).multiline_text((16, 128), text, fill="#b3261e", anchor="lm", spacing=6)
    return page


if __name__ == "__main__":
    main()
