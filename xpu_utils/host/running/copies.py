"""A placed model's copies on other devices, which newer hosts share conditions out to (MultiGPU CFG Split)."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import CallbacksMP

COPIES = "multigpu"
"""Key of the additional models under which ComfyUI keeps a model's copies."""


def share_out(placed: Any) -> None:
    """Has a model be shared out among devices, before or after it was placed.

    As ComfyUI does it, what was a copy on the device where the model is now is none any more.
    """
    if not hasattr(CallbacksMP, "ON_MATCH_MULTIGPU_CLONES"):
        return
    kind = CallbacksMP.ON_MATCH_MULTIGPU_CLONES
    placed.remove_callbacks_with_key(kind, COPIES)
    placed.add_callback_with_key(kind, COPIES, _matched)
    copies = placed.get_additional_models_with_key(COPIES)
    placed.set_additional_models(COPIES, [copy for copy in copies if copy.load_device != placed.load_device])


def _matched(placed: Any, copy: Any) -> None:
    """Gives a copy, which ComfyUI makes anew for each run, the first copy as its parent.

    With the model as that they would keep each other, and the copy's weights would stay loaded under nobody.
    """
    former = next(known for known in placed.get_additional_models_with_key(COPIES) if known.model is copy.model)
    while former.parent is not None and former.parent.model is former.model:
        former = former.parent
    former.parent = None
    copy.parent = former
