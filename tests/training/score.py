"""`python -m tests.training.score`: subjects drawn by ComfyUI with our nodes, and what the judge makes of it.

Writes the table of docs/measurements/performance.md. Half an hour; `--rows` draws some of its rows and prints them.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import math
import re
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from tests.harness.hosts import ROOT
from tests.harness.models import ensure_models
from tests.harness.server import Server, running_server
from tests.harness.simulated import simulated_server
from tests.harness.workflows import Workflow, node, text_to_image, with_our_nodes

from .checkpoint import NAME, trained
from .judge import named
from .subjects import SIDE, SUBJECTS

PAGE = ROOT / "docs" / "measurements" / "performance.md"
_TABLE = re.compile(r"(?<=<!-- python -m tests.training.score -->\n).*?(?=\n\n)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to draw all subjects."""

    device: str
    """Of the workflow; "xpu:0" is a simulated Arc B580."""
    precision: str
    weights: str = "default"
    """What the network's weights are kept in."""
    resident: str = "all"
    """How much of them stays on the device."""


ROWS = (
    Row("cpu", "fp32"),
    Row("cpu", "bf16"),
    Row("cpu", "bf16", weights="fp8_e4m3fn"),
    Row("cpu", "int8"),
    Row("xpu:0", "fp32"),
    Row("xpu:0", "fp32", resident="20%"),
    Row("xpu:0", "bf16"),
    Row("xpu:0", "bf16", resident="20%"),
    Row("xpu:0", "bf16", weights="fp8_e4m3fn"),
    Row("xpu:0", "bf16", weights="fp8_e4m3fn", resident="20%"),
    Row("xpu:0", "int8"),
    Row("xpu:0", "int8", resident="20%"),
)
"""The first is what the others are compared with."""


@dataclasses.dataclass(frozen=True)
class Score:
    """What became of a row's pictures."""

    row: Row
    named: int
    """How many of the row's pictures show the judge their subject."""
    psnr_db: tuple[float, float]
    """Lowest and median, against the pictures of the first row; infinite where all are equal to the bit."""


def workflow(subject: str, row: Row, *, seed: int = 0) -> Workflow:
    """A subject in 8 steps."""
    stock = text_to_image(f"{NAME}.safetensors", size=SIDE, steps=8, cfg=2.0, seed=seed)
    stock["positive"]["inputs"]["text"] = subject
    stock["negative"]["inputs"]["text"] = ""
    stock["sampler"]["inputs"]["scheduler"] = "simple"
    if row.weights != "default":
        stock["network"] = node("UNETLoader", unet_name=f"{NAME}.safetensors", weight_dtype=row.weights)
        stock["sampler"]["inputs"]["model"] = ["network", 0]
    ours = with_our_nodes(stock, device=row.device, precision=row.precision)
    ours["network" if "network" in ours else "checkpoint"]["inputs"]["resident"] = row.resident
    return ours


def drawn(server: Server, subjects: Iterable[str], row: Row) -> Iterator[torch.Tensor]:
    """(3, 256, 256) pictures of subjects, in 0..1.

    Raises:
        RuntimeError: a workflow failed, or ran in another way than the row says.
    """
    for subject in subjects:
        result = server.client.run(workflow(subject, row))
        if result.error is not None:
            raise RuntimeError(f"{subject} was not drawn: {result.message}")
        (sampled,) = result.outputs["sampler"]["xpu"]
        loaded = [note for name in ("checkpoint", "network") for note in _notes(result.outputs.get(name))]
        followed = sampled["effective"] == row.device and row.precision in ("auto", sampled["precision"])
        if loaded or not followed:
            raise RuntimeError(f"{row} was not followed: {sampled}, {loaded}")
        picture = Image.open(io.BytesIO(server.client.image(result, "save")))
        yield torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)


def _notes(output: Any) -> list[str]:
    """What is said of what was not followed; a loader also tells what its file holds."""
    return [note for stage in (output or {}).get("xpu", []) for note in stage["notes"] if "not followed" in note]


def psnr_db(picture: torch.Tensor, reference: torch.Tensor) -> float:
    """How close two pictures in 0..1 are; infinite where they are equal."""
    error = (picture - reference).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def subjects_of(row: Row) -> tuple[str, ...]:
    """All; a quarter on the simulated card, which computes with the CPU's kernels."""
    return SUBJECTS if row.device == "cpu" else SUBJECTS[::4]


def score(row: Row, pictures: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> Score:
    """What the judge makes of pictures (3, H, W) by subject, and how close they are to the reference."""
    told = named(torch.stack(list(pictures.values())), trained("judge"))
    right = sum(map(str.__eq__, told, pictures))
    closeness = [psnr_db(picture, reference[subject]) for subject, picture in pictures.items()]
    return Score(row, right, (min(closeness), statistics.median(closeness)))


def scores(rows: Sequence[Row]) -> Iterator[Score]:
    """Draws subjects in every way; rows of one kind of device share a server."""
    reference = None
    with tempfile.TemporaryDirectory() as folder:
        for device in dict.fromkeys(row.device for row in rows):
            with _server(Path(folder) / device.replace(":", "-"), device) as server:
                for row in [row for row in rows if row.device == device]:
                    subjects = subjects_of(row)
                    bar = tqdm(subjects, desc=" ".join(dataclasses.astuple(row)), unit="picture")
                    pictures = dict(zip(subjects, drawn(server, bar, row), strict=True))
                    reference = pictures if reference is None else reference
                    yield score(row, pictures, reference)


@contextlib.contextmanager
def _server(base: Path, device: str) -> Iterator[Server]:
    """A server whose models folder has the checkpoint also as a diffusion model, whose weights may be kept in fp8."""
    file = ensure_models(NAME) / "checkpoints" / f"{NAME}.safetensors"
    for kind in ("checkpoints", "diffusion_models"):
        (base / "models" / kind).mkdir(parents=True)
        (base / "models" / kind / file.name).symlink_to(file)
    if device == "cpu":
        with running_server(base) as server:
            yield server
        return
    with simulated_server(base, {"devices": ["arc-b580"]}) as (server, _):
        yield server


def table(found: Iterable[Score]) -> str:
    """The scores in Markdown."""
    lines = [
        "| device | computed in | weights | on the device | named | PSNR, lowest | median |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in found:
        row, closeness = entry.row, ("equal" if math.isinf(value) else f"{value:.1f} dB" for value in entry.psnr_db)
        device = "CPU" if row.device == "cpu" else "simulated B580"
        weights = "as in the file" if row.weights == "default" else row.weights
        resident = "-" if row.device == "cpu" else row.resident
        cells = (device, row.precision, weights, resident, f"{entry.named} of {len(subjects_of(row))}", *closeness)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", help="draw these alone, counted from 0, and write nothing")
    chosen = parser.parse_args()
    found = table(scores(ROWS if chosen.rows is None else [ROWS[index] for index in chosen.rows]))
    print(found)
    if chosen.rows is None:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(_TABLE.sub(lambda _: found, page, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
