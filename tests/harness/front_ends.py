"""ComfyUI's web front ends, from the package registry: each host pins one, and users run older and newer ones."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from .hosts import CACHE

FRONT_ENDS = CACHE / "front-ends"

OLDEST = "1.25.10"
"""That of ComfyUI 0.3.52, the oldest host that is supported."""

DEFAULT = "1.32.9"
"""That of the default host, ComfyUI 0.3.75."""

NEWER = ("1.49.6", "1.53.10", "1.58.1")
"""Those of ComfyUI 0.33 and 0.38, and the newest in November 2026."""

NEWEST = "newest"
"""Whatever the registry has; downloaded each time."""

_INSIDE = "comfyui_frontend_package/static/"


def ensure_front_end(version: str) -> Path:
    """The folder of a front end's files, by version or NEWEST; downloaded where it is missing.

    Raises:
        subprocess.CalledProcessError: the registry has no such version, or cannot be reached.
    """
    target = FRONT_ENDS / version
    if version != NEWEST and (target / _INSIDE).is_dir():
        return target / _INSIDE
    FRONT_ENDS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FRONT_ENDS) as scratch:
        command = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch)
        pin = "" if version == NEWEST else f"=={version}"
        subprocess.run([*command, f"comfyui-frontend-package{pin}"], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.startswith(_INSIDE) and not name.endswith(".map")]
            archive.extractall(Path(scratch) / version, names)
        shutil.rmtree(target, ignore_errors=True)
        (Path(scratch) / version).rename(target)
    return target / _INSIDE
