"""Checks of ComfyUI itself: how it was started, what the packs beside us do."""

from __future__ import annotations

from collections.abc import Iterator

from .findings import Finding, State, everywhere
from .machine import Machine

NEIGHBOURS = {
    "comfyui-omnixpu": "replaces core's attention and loading on XPU; our own hooks of the same name stand down",
    "omnixpu": "replaces core's attention and loading on XPU; our own hooks of the same name stand down",
    "comfy-aimdo-xpu": "manages device memory itself; our memory hook stands down",
    "comfyui-multigpu": "gives models devices of its own; use either its loaders or ours in one workflow",
    "xpusys-monitor": "shows the same figures (Windows only); one of the two monitors is enough",
}
"""Packs that touch what we touch, by folder name, and what follows."""


def start(machine: Machine) -> Iterator[Finding]:
    """The host computes on the accelerator that is there."""
    host, accelerators = machine.host, machine.inventory.accelerators
    if host is None or not accelerators or host.device_type != "cpu":
        return
    name = accelerators[0].id
    if host.cpu_argument:
        what = f"ComfyUI was started with --cpu although {name} is there"
        fixes = everywhere("Start ComfyUI without --cpu.")
        yield Finding("started-with-cpu", State.WARNING, what, "argument --cpu", fixes)
    else:
        what = f"ComfyUI was changed to compute on the CPU although {name} is there"
        fix = "Remove what changes it: start once with --disable-all-custom-nodes, then update ComfyUI (git pull)."
        yield Finding("patched-to-cpu", State.ERROR, what, "device cpu without --cpu", everywhere(fix))


def neighbours(machine: Machine) -> Iterator[Finding]:
    """Other packs that patch the same things."""
    for pack in machine.host.packs if machine.host else ():
        effect = NEIGHBOURS.get(pack.lower().replace("_", "-"))
        if effect is not None:
            fixes = everywhere(f"Keep it if you want its way; to use ours, remove custom_nodes/{pack} and restart.")
            yield Finding("neighbour", State.NOTE, f"{pack} {effect}", f"custom_nodes/{pack}", fixes)


def hooks(machine: Machine) -> Iterator[Finding]:
    """Our own touches on the host."""
    for name, state, reason in machine.host.hooks if machine.host else ():
        if state == "unavailable":
            fixes = everywhere("Update ComfyUI (git pull) and restart.")
            yield Finding("hook-unavailable", State.NOTE, f"Hook {name} is not in force", reason, fixes)
        elif state == "applied":
            yield Finding("hook", State.OK, f"Hook {name} is applied", reason)
        else:
            fixes = everywhere("Nothing if that is meant; otherwise undo what the reason names and restart ComfyUI.")
            yield Finding("hook-stood-down", State.NOTE, f"Hook {name} stood down", reason, fixes)


CHECKS = (start, neighbours, hooks)
