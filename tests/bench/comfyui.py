"""The ComfyUI that a benchmark compares with, in its own process."""

from __future__ import annotations

import importlib.util
import sys

from tests.harness.hosts import host_path


def use_comfyui() -> None:
    """Makes ComfyUI importable, unless this process runs inside one."""
    if importlib.util.find_spec("comfy") is None:
        sys.path.insert(0, str(host_path()))  # before the repository, whose `nodes` is another package
    importlib.import_module("utils.extra_config")  # as ComfyUI does first: other packages bring a `utils` too
