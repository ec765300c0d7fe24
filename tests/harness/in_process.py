"""ComfyUI's code in this process, without a server."""

from __future__ import annotations

import gc
import importlib
import sys

from .hosts import ROOT


def enter(host: str) -> None:
    """Has a ComfyUI's modules be imported from its folder; the process takes no arguments of its command line."""
    sys.argv = sys.argv[:1]
    sys.path[:0] = [host]  # before the repository, whose `nodes` is another package
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    importlib.import_module("utils.install_util")  # before ComfyUI's nodes.py puts another `utils` on the path
    from server import PromptServer

    PromptServer.instance = None  # no server, so no prompt that faults belong to
    gc.freeze()
    gc.enable()  # site/sitecustomize.py has put it off in the workers of tests
