"""Generated model files shared by tests, demo and benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .hosts import CACHE, host_environment, host_path

MODELS = CACHE / "models"


def ensure_models(*layouts: str, models: Path = MODELS) -> Path:
    """Generates the named layouts (see xpu_utils/host/synthetic.py) that are not there yet; returns the folder."""
    missing = [layout for layout in layouts if not list(models.glob(f"*/{layout}.safetensors"))]
    if missing:
        environment = host_environment()
        environment["PYTHONPATH"] = f"{host_path()}:{environment['PYTHONPATH']}"
        command = [sys.executable, "-m", "xpu_utils.host.synthetic", str(models), *missing]
        subprocess.run(command, check=True, env=environment, cwd=Path(__file__).resolve().parents[2])
    return models
