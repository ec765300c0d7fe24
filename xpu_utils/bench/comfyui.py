"""The ComfyUI that a benchmark compares with."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def use_comfyui(folder: Path) -> bool:
    """Makes a ComfyUI importable; False where the folder holds none."""
    if not (folder / "comfy").is_dir():
        return False
    sys.path.insert(0, str(folder))
    importlib.import_module("utils.extra_config")  # as ComfyUI does first: other packages bring a `utils` too
    return True
