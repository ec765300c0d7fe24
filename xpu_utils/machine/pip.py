"""What to paste to have pip change the Python that runs this, and no other."""

from __future__ import annotations

import sys

XPU_INDEX = "https://download.pytorch.org/whl/xpu"


def pip(arguments: str) -> str:
    """A command for any shell but PowerShell, where a path with spaces needs an & before it."""
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return f"{python} -m pip {arguments}"


def install_torch() -> str:
    return pip(f"install --force-reinstall torch torchvision torchaudio --index-url {XPU_INDEX}")
