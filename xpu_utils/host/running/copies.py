"""A placed model's copies on other devices, which newer hosts share conditions out to (MultiGPU CFG Split)."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP

from ...recovery.faults import lost_devices

COPIES = "multigpu"
"""Key of the additional models under which ComfyUI keeps a model's copies."""


def share_out(placed: Any) -> None:
    """Has a model be shared out among devices, before or after it was placed."""
    if not hasattr(CallbacksMP, "ON_MATCH_MULTIGPU_CLONES"):
        return
    kind = CallbacksMP.ON_MATCH_MULTIGPU_CLONES
    placed.remove_callbacks_with_key(kind, COPIES)
    placed.add_callback_with_key(kind, COPIES, _matched)
    whole_again(placed)


def whole_again(placed: Any) -> None:
    """Drops copies where the model is, as ComfyUI does: it went there, or they did from a lost device; or still would.

    ComfyUI's node goes on offering lost devices.
    """
    if hasattr(placed, "get_additional_models_with_key"):
        copies = placed.get_additional_models_with_key(COPIES)
        gone = {placed.load_device, *map(torch.device, lost_devices())}
        others = [copy for copy in copies if copy.load_device not in gone]
        if len(others) < len(copies):
            placed.set_additional_models(COPIES, others)


def _matched(placed: Any, copy: Any) -> None:
    """Gives a copy, which ComfyUI makes anew for each run, the first copy as its parent.

    With the model as that they would keep each other, and the copy's weights would stay loaded under nobody.
    """
    former = next(known for known in placed.get_additional_models_with_key(COPIES) if known.model is copy.model)
    while former.parent is not None and former.parent.model is former.model:
        former = former.parent
    former.parent = None
    copy.parent = former
