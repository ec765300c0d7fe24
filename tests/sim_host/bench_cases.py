"""The streaming and loading benchmarks, on a tiny model and a simulated device; see worker.py."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.__main__ import main


def case_stream() -> Any:
    return _run("stream", "--shape", "tiny", "--rounds", "1", "--steps", "6")


def case_load() -> Any:
    return _run("load", "--layout", "sd15-tiny-unet", "--rounds", "1")


def _run(bench: str, *arguments: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        code = main([bench, "--device", "xpu:0", "--json", str(report), *arguments])
        return {"code": code, "report": json.loads(report.read_text())}
