"""What the user chose for graphs of stock nodes: the switch, and where and how their models compute."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ...choice import AUTO, check_choice
from ...placement import check_device_name
from ...precision import check_precision
from ...recovery.watch import PATIENCE_SECONDS, seconds_in
from ...residency import resident_share
from ...weights.pinned import LOCKED_SHARES
from .. import hooks
from ..recovery import takeover

VARIABLE = "XPU_NODES_PROTECT"
"""Environment variable, "on" or "off": decides where it is set, whatever the settings say."""

PREFIX = "xpu-nodes.protect"
"""The switch's id among ComfyUI's settings; the choices beside it are named below it."""

AS_COMFYUI, EVERYWHERE = "as ComfyUI", "the same everywhere"

CHECKS: Mapping[str, Callable[[object], object]] = {
    "device": check_device_name,
    "precision": check_precision,
    "resident": resident_share,
    "seeds": functools.partial(check_choice, "seeds", choices=(AS_COMFYUI, EVERYWHERE)),
    "exempt": str,
    "takeover": functools.partial(check_choice, "takeover", choices=(takeover.YES, takeover.ASK, takeover.NO)),
    "locked": functools.partial(check_choice, "locked", choices=LOCKED_SHARES),
    "patience": seconds_in,
    "hooks": str,
}


@dataclasses.dataclass(frozen=True)
class Protection:
    """Whether models of stock nodes are placed, and how."""

    on: bool = False
    device: str = AUTO
    """"auto" leaves each model on the device that ComfyUI chose for it."""
    precision: str = AUTO
    resident: str = AUTO
    seeds: str = AS_COMFYUI
    """Whose noise samplers draw on the way: ComfyUI's on the device, or the host's, the same on every device."""
    exempt: str = ""
    """Ids and types of nodes that are left to ComfyUI, separated by commas."""
    takeover: str = takeover.YES
    """Whether the CPU may go on where no accelerator is left."""
    locked: str = AUTO
    """Share of the host's memory that may be page-locked."""
    patience: str = str(PATIENCE_SECONDS)
    """Seconds that a device may take to answer at least, in nodes of this pack, too; 0 for as long as it likes."""
    hooks: str = ""
    """Names of hooks that are left out, separated by commas."""

    @property
    def left_out(self) -> list[str]:
        """Those names."""
        return hooks.names_in(self.hooks)


def chosen() -> Protection:
    """What is chosen now."""
    stored = _stored()
    choices = {name: stored[f"{PREFIX}.{name}"] for name in CHECKS if f"{PREFIX}.{name}" in stored}
    accepted = {name: str(value) for name, value in choices.items() if _accepted(name, value)}
    return Protection(_switched_on(stored), **accepted)


def _switched_on(stored: Mapping[str, Any]) -> bool:
    said = os.environ.get(VARIABLE, "").strip().lower()
    if said in ("on", "off"):
        return said == "on"
    if said:
        _warn(f"{VARIABLE} is {said!r}, not on or off: ComfyUI's settings decide.")
    return stored.get(PREFIX) is True


def _accepted(name: str, value: Any) -> bool:
    try:
        CHECKS[name](value)
    except ValueError as error:
        _warn(f"the setting {PREFIX}.{name} is not used, {error}")
        return False
    return True


@functools.cache
def _warn(sentence: str) -> None:
    """Says a thing once."""
    logging.warning("XPU Nodes: %s", sentence)


_read: tuple[tuple[int, int], dict[str, Any]] = ((0, 0), {})
"""When the file was changed and how long it was, and what it held."""


def _stored() -> dict[str, Any]:
    """ComfyUI's settings of its first user; what they last were while the file is being written."""
    global _read
    file = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
    try:
        facts = file.stat()
    except OSError:  # nobody has changed a setting yet
        return {}
    state = (facts.st_mtime_ns, facts.st_size)
    if state != _read[0]:
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return _read[1]
        _read = (state, held if isinstance(held, dict) else {})
    return _read[1]
