"""Values of combo boxes: ComfyUI itself does not check those of V3 nodes."""

from __future__ import annotations

from collections.abc import Sequence

AUTO = "auto"
"""Leaves a device, a precision or a share to us."""


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuses a value that is not in a combo box's list.

    Raises:
        ValueError: it is not, in a sentence that says what is.
    """
    if value not in choices:
        raise ValueError(f"{name}: {str(value)[:40]} is not offered, use one of {', '.join(choices)}.")
