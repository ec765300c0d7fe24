"""XPU Nodes: a ComfyUI node pack that makes Intel GPUs, and the CPU behind them, dependable."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """What ComfyUI calls to get the nodes; nothing is imported before that.

    Raises:
        ImportError: PyTorch is too old, which ComfyUI logs and goes on without this pack.
    """
    from .xpu_utils.machine import last_words
    from .xpu_utils.machine.devices import torch_problem

    if problem := torch_problem():
        raise ImportError(problem)
    from .nodes import XPUExtension
    from .xpu_utils.host.panel import checking
    from .xpu_utils.host.panel.routes import register
    from .xpu_utils.host.startup import apply_hooks

    last_words.begin()
    register()
    checking.register()
    apply_hooks()
    return XPUExtension()
