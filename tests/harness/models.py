"""Generated model files shared by tests, demo and benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .hosts import CACHE, ROOT, host_environment, host_path

MODELS = CACHE / "models"


def ensure_models(*layouts: str, models: Path = MODELS) -> Path:
    """Generates the named layouts (see tests/harness/synthetic.py) that are not there yet; returns the folder."""
    missing = [layout for layout in layouts if not list(models.glob(f"*/{layout}.safetensors"))]
    if missing:
        environment = host_environment()
        environment["PYTHONPATH"] = f"{host_path()}{os.pathsep}{environment['PYTHONPATH']}"
        command = [sys.executable, "-m", "tests.harness.synthetic", str(models), *missing]
        subprocess.run(command, check=True, env=environment, cwd=ROOT)
    return models
