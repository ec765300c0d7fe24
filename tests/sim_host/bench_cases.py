"""The streaming and loading benchmarks, on a tiny model and a simulated device; see worker.py."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import folder_paths

from xpu_utils.__main__ import main


def case_stream() -> Any:
    return _run("stream", "--shape", "tiny", "--rounds", "1", "--steps", "6")


def case_load() -> Any:
    return _run("load", "--layout", "sd15-tiny-unet", "--rounds", "1")


def case_load_without_comfyui() -> Any:
    return _run("load", "--gigabytes", "0.05", "--rounds", "1", comfyui=False)


def _run(bench: str, *arguments: str, comfyui: bool = True) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--comfyui", folder_paths.base_path] if comfyui else []
        code = main(["bench", bench, "--device", "xpu:0", "--json", str(report), *options, *arguments])
        return {"code": code, "report": json.loads(report.read_text())}
