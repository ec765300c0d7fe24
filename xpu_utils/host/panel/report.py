"""The text report of the XPUDeviceInfo node."""

from __future__ import annotations

from ...memory.listing import as_text
from ..hooks import listed
from ..inventory import explained_inventory


def device_report() -> str:
    """The devices, their free memory, what is not usable and why, and the state of every hook."""
    return "\n".join([as_text(explained_inventory()), *(f"change to ComfyUI, {hook}" for hook in listed())])
