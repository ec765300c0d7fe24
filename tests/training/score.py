"""`python -m tests.training.score`: every subject drawn by ComfyUI with our nodes, and what the judge makes of it."""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from tests.harness.models import ensure_models
from tests.harness.server import Server, running_server
from tests.harness.workflows import Workflow, text_to_image, with_our_nodes

from .checkpoint import NAME, trained
from .judge import named
from .subjects import SIDE, SUBJECTS


def workflow(subject: str, *, precision: str, seed: int = 0) -> Workflow:
    """A subject in 8 steps on the CPU."""
    stock = text_to_image(f"{NAME}.safetensors", size=SIDE, steps=8, cfg=2.0, seed=seed)
    stock["positive"]["inputs"]["text"] = subject
    stock["negative"]["inputs"]["text"] = ""
    stock["sampler"]["inputs"]["scheduler"] = "simple"
    return with_our_nodes(stock, device="cpu", precision=precision)


def drawn(server: Server, subjects: Iterable[str], *, precision: str) -> Iterator[torch.Tensor]:
    """(3, 256, 256) pictures of subjects, in 0..1.

    Raises:
        RuntimeError: a workflow failed.
    """
    for subject in subjects:
        result = server.client.run(workflow(subject, precision=precision))
        if result.error is not None:
            raise RuntimeError(f"{subject} was not drawn: {result.message}")
        picture = Image.open(io.BytesIO(server.client.image(result, "save")))
        yield torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)


def psnr_db(picture: torch.Tensor, reference: torch.Tensor) -> float:
    """How close two pictures in 0..1 are; infinite where they are equal."""
    error = (picture - reference).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    chosen = parser.parse_args()
    judge = trained("judge")
    rows, reference = [], None
    with (
        tempfile.TemporaryDirectory() as base,
        running_server(Path(base), models=ensure_models(NAME), steady=False) as server,
    ):
        for precision in chosen.precisions:
            subjects = tqdm(SUBJECTS, desc=precision, unit="picture")
            pictures = torch.stack(list(drawn(server, subjects, precision=precision)))
            reference = pictures if reference is None else reference
            right = sum(map(str.__eq__, named(pictures, judge), SUBJECTS))
            closeness = statistics.median(psnr_db(*pair) for pair in zip(pictures, reference, strict=True))
            rows.append({"precision": precision, "named": right, "of": len(SUBJECTS), "psnr_db": closeness})
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
