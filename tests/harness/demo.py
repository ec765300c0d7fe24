"""`make demo`: pictures from a headless workflow of our nodes, a device lost on the way, and where each part ran."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw
from tqdm import tqdm

from tests.training.checkpoint import NAME, trained
from tests.xpu_sim import build
from xpu_utils.placement import check_device_name

from .client import Client, Result
from .hosts import ROOT, host_path
from .models import ensure_models
from .server import running_server
from .simulated import simulated_server
from .workflows import Workflow, with_stock_nodes

OUT = ROOT / "out" / "demo"
BASE = ROOT / ".cache" / "demo"
WORKFLOW = ROOT / "example_workflows" / "api" / "text_to_image.json"
COLUMNS = ("name", "requested", "effective", "precision", "seconds", "reason")

SUBJECTS = ("octopus", "hamburger", "rocket")
RANDOM = "sd15-tiny"
"""The checkpoint of random weights that stands in for the trained one."""

LOST_STEP = 4
"""The step in which the simulated device is lost; each begins with the one convolution of the network."""

Drawn = tuple[str, Image.Image]
"""What a picture shows, and the picture."""


class FailedError(Exception):
    """The workflow failed; the message is a sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; answers the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    try:
        check_device_name(chosen.device)
        host_path()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    shutil.rmtree(BASE, ignore_errors=True)
    OUT.mkdir(parents=True, exist_ok=True)
    checkpoint = _checkpoint()
    try:
        pictures = _draw(chosen.device, checkpoint) + _lose_a_device(checkpoint)
    except FailedError as error:
        print(error, file=sys.stderr)
        return 1
    contact_sheet(pictures).save(OUT / "sheet.png")
    print("\n".join(f"wrote {os.path.relpath(OUT / name, ROOT)}" for name in ("sheet.png", "report.json")))
    return 0


def _checkpoint() -> str:
    """The trained checkpoint, or the one of random weights where that is damaged."""
    try:
        trained(NAME)
    except ValueError as error:
        print(f"{error} Random weights draw noise instead.", file=sys.stderr)
        return RANDOM
    return NAME


def _draw(device: str, checkpoint: str) -> list[Drawn]:
    """Draws every subject on this machine's device, prints where each part ran and keeps that as report.json."""
    pictures, stages = [], []
    models = ensure_models(checkpoint)
    (BASE / "here").mkdir(parents=True)
    # Our loaders may lay weights of their own out another way than the switch does others', which rounds otherwise.
    alike = {"XPU_NODES_CPU": "channels_last=off"}
    options: dict[str, Any] = {"arguments": _host_arguments(), "environment": alike, "steady": False}
    with running_server(BASE / "here", models=models, **options) as server:
        for subject in SUBJECTS:
            result, picture = _picture(server.client, example(device, checkpoint, subject))
            pictures.append((subject, picture))
            stages += stages_of(server.client, result)
        protected = _protected(server.client, device, example(device, checkpoint, SUBJECTS[0]))
    print(table(stages))
    _compare(
        "The same workflow of ComfyUI's own nodes, with the switch on", pictures[0][1], protected, "from our nodes"
    )
    (OUT / "report.json").write_text(json.dumps(stages, indent=2), encoding="utf-8")
    return pictures


def _protected(client: Client, device: str, workflow: Workflow) -> Image.Image:
    """What the workflow with stock nodes in our nodes' places draws while the switch is on."""
    client.post("/settings", {"xpu-nodes.protect": True, "xpu-nodes.protect.device": device})
    result, picture = _picture(client, with_stock_nodes(workflow))
    if "sample" not in [stage["name"] for stage in stages_of(client, result)]:
        raise FailedError("The switch did not protect the workflow: please report this with out/demo/report.json.")
    return picture


def _compare(what: str, expected: Image.Image, found: Image.Image, those: str) -> None:
    """Says whether a picture is the one that is expected.

    Raises:
        FailedError: it is not.
    """
    equal = expected.tobytes() == found.tobytes()
    print(f"{what}: the picture is {'the same to the bit' if equal else f'ANOTHER than {those}'}.")
    if not equal:
        raise FailedError(f"{what}, the picture is another: please report this with out/demo/report.json.")


def _lose_a_device(checkpoint: str) -> list[Drawn]:
    """Draws one subject twice on two simulated cards; the second time the first card is lost on the way."""
    try:
        build.load()
    except build.CannotSimulate as error:
        print(f"The lost device is left out: {error}", file=sys.stderr)
        return []
    workflow = example("auto", checkpoint, SUBJECTS[0])
    cards = {"devices": ["arc-b580", "arc-b580"]}
    with simulated_server(BASE / "simulated", cards, models=ensure_models(checkpoint)) as (server, simulation):
        _, undisturbed = _picture(server.client, workflow)
        server.client.free()  # nothing is taken from a cache
        simulation.set_faults({"operator": "aten::convolution", "kind": "device_lost", "device": 0, "nth": LOST_STEP})
        result, survived = _picture(server.client, workflow)
        (sampled,) = (stage for stage in stages_of(server.client, result) if stage["name"] == "sample")
    lost = f"A simulated card was lost in step {LOST_STEP}, sampling ended on {sampled['effective']}"
    _compare(lost, undisturbed, survived, "without the loss")
    return [("simulated card", undisturbed), ("card lost on the way", survived)]


def example(device: str, checkpoint: str, subject: str) -> Workflow:
    """The example, drawing a subject with everything that can be placed on the device."""
    workflow: Workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in workflow.values():
        if "device" in node["inputs"]:
            node["inputs"]["device"] = device
    workflow["checkpoint"]["inputs"]["ckpt_name"] = f"{checkpoint}.safetensors"
    workflow["positive"]["inputs"]["text"] = subject
    workflow["negative"]["inputs"]["text"] = ""
    workflow["sampler"]["inputs"].update(cfg=2.0, scheduler="simple")
    return workflow


def _picture(client: Client, workflow: Workflow) -> tuple[Result, Image.Image]:
    result = run_with_progress(client, workflow)
    if result.error is not None:
        raise FailedError(f"The workflow failed: {result.message}")
    return result, Image.open(io.BytesIO(client.image(result, "save"))).convert("RGB")


def contact_sheet(pictures: Sequence[Drawn], caption_pixels: int = 20) -> Image.Image:
    """The pictures in a row, each above its caption."""
    width, height = pictures[0][1].size
    height += caption_pixels
    sheet = Image.new("RGB", (len(pictures) * width, height), "white")
    for index, (caption, picture) in enumerate(pictures):
        sheet.paste(picture, (index * width, 0))
        ImageDraw.Draw(sheet).text(((index + 0.5) * width, height), caption, fill="black", anchor="md")
    return sheet


def _host_arguments() -> tuple[str, ...]:
    """--cpu where PyTorch has no accelerator: ComfyUI does not start without it there."""
    import torch

    return () if torch.accelerator.is_available() else ("--cpu",)


def run_with_progress(client: Client, workflow: dict[str, Any]) -> Result:
    """Runs a workflow with a bar over its nodes and a second one over the current node's steps, or bytes of a file."""
    with tqdm(total=len(workflow), unit="node", desc="workflow") as nodes, tqdm(unit="step", leave=False) as steps:

        def follow(kind: str, data: dict[str, Any]) -> None:
            if kind == "executing" and data.get("node"):
                nodes.set_postfix_str(workflow[data["node"]]["class_type"])
                nodes.update()
            if kind == "progress":
                loading = "Load" in workflow[data["node"]]["class_type"]
                steps.unit, steps.unit_scale = ("B", True) if loading else ("step", False)
                steps.total, steps.n = data["max"], data["value"]
                steps.refresh()

        return client.run(workflow, on_event=follow, timeout_s=900)


def stages_of(client: Client, result: Result) -> list[dict[str, Any]]:
    """Where each part of the prompt ran, text encoding by the stock node included."""
    jobs = client.get("/xpu/jobs")["jobs"]
    return next(list(job["stages"]) for job in jobs if job["prompt_id"] == result.prompt_id)


def table(stages: list[dict[str, Any]]) -> str:
    """The stages as an aligned text table."""
    rows = [COLUMNS, *(tuple(str(stage[column]) for column in COLUMNS) for stage in stages)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
