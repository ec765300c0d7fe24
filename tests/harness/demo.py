"""`make demo`: a picture from a headless workflow of our nodes, and a report of where each part ran."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xpu_utils.placement import check_device_name

from .client import Client, Result
from .hosts import ROOT, host_path
from .models import ensure_models
from .server import running_server
from .workflows import Workflow

OUT = ROOT / "out" / "demo"
BASE = ROOT / ".cache" / "demo"
WORKFLOW = ROOT / "example_workflows" / "api" / "text_to_image.json"
COLUMNS = ("name", "requested", "effective", "precision", "seconds", "reason")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; answers the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args(arguments)
    try:
        check_device_name(chosen.device)
        host = host_path()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.mkdir(parents=True)
    models = ensure_models("sd15-tiny")
    with running_server(BASE, models=models, host=host, arguments=_host_arguments(), steady=False) as server:
        result = run_with_progress(server.client, _workflow(chosen.device))
        if result.error is not None:
            print(f"The workflow failed: {result.message}", file=sys.stderr)
            return 1
        _leave(server.client, result)
    return 0


def _workflow(device: str) -> Workflow:
    """The example, with everything that can be placed on the device."""
    workflow: Workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for node in workflow.values():
        if "device" in node["inputs"]:
            node["inputs"]["device"] = device
    return workflow


def _leave(client: Client, result: Result) -> None:
    """Writes pictures and report, and prints the table."""
    OUT.mkdir(parents=True, exist_ok=True)
    pictures, stages = save_pictures(client, result), stages_of(client, result)
    (OUT / "report.json").write_text(json.dumps(stages, indent=2), encoding="utf-8")
    print(table(stages))
    print("\n".join(f"wrote {os.path.relpath(path, ROOT)}" for path in [*pictures, OUT / "report.json"]))


def _host_arguments() -> tuple[str, ...]:
    """--cpu where PyTorch has no accelerator: ComfyUI does not start without it there."""
    import torch

    return () if torch.accelerator.is_available() else ("--cpu",)


def run_with_progress(client: Client, workflow: dict[str, Any]) -> Result:
    """Runs a workflow with a bar over its nodes and a second one over the steps of the current node."""
    with tqdm(total=len(workflow), unit="node", desc="workflow") as nodes, tqdm(unit="step", leave=False) as steps:

        def follow(kind: str, data: dict[str, Any]) -> None:
            if kind == "executing" and data.get("node"):
                nodes.set_postfix_str(workflow[data["node"]]["class_type"])
                nodes.update()
            if kind == "progress":
                steps.total, steps.n = data["max"], data["value"]
                steps.refresh()

        return client.run(workflow, on_event=follow, timeout_s=900)


def stages_of(client: Client, result: Result) -> list[dict[str, Any]]:
    """Where each part of the prompt ran, text encoding by the stock node included."""
    jobs = client.get("/xpu/jobs")["jobs"]
    return next(list(job["stages"]) for job in jobs if job["prompt_id"] == result.prompt_id)


def save_pictures(client: Client, result: Result) -> list[Path]:
    """Fetches every saved picture into the output folder."""
    paths = []
    for node_id, output in result.outputs.items():
        for index, entry in enumerate(output.get("images", [])):
            path = OUT / entry["filename"]
            path.write_bytes(client.image(result, node_id, index))
            paths.append(path)
    return paths


def table(stages: list[dict[str, Any]]) -> str:
    """The stages as an aligned text table."""
    rows = [COLUMNS, *(tuple(str(stage[column]) for column in COLUMNS) for stage in stages)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
