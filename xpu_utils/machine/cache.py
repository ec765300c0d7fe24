"""Where what was once measured on this machine is kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DIRECTORY_VARIABLE = "XPU_NODES_CACHE_DIR"
"""Environment variable naming the folder; without it the system's usual place for a user's caches."""


def cache_directory() -> Path:
    """The folder for cached results; it may not exist yet."""
    own = os.environ.get(DIRECTORY_VARIABLE)
    if own:
        return Path(own)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "xpu-nodes"
