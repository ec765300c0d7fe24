"""Checks of ComfyUI itself: how it was started, what the packs beside us do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .findings import REPOSITORY, Finding, State, everywhere
from .machine import Machine

KNOWN_HOSTS = ("0.3.52", "0.3.75", "0.18.1", "0.29.0", "0.33.0")
"""Versions of ComfyUI that each of our touches was checked against (tests/contract), in order. Only told to the user:
what is done depends on what a host offers."""


def start(machine: Machine) -> Iterator[Finding]:
    """The host computes on the accelerator that is there."""
    host, accelerators = machine.host, machine.inventory.accelerators
    if host is None or not accelerators:
        return
    if host.device_arguments and accelerators[0].type == "xpu":
        what = f"{' and '.join(host.device_arguments)} has no effect here: ComfyUI chooses no Intel GPU by it"
        fixes = everywhere(
            "Choose the device in a node of this pack, or start with --oneapi-device-selector level_zero:1."
        )
        yield Finding("device-argument", State.NOTE, what, f"{accelerators[0].id} is {accelerators[0].name}", fixes)
    if host.device_type != "cpu":
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


def version(machine: Machine) -> Iterator[Finding]:
    """The host is one that we know."""
    host = machine.host
    if host is None or not host.version:
        return
    newest = KNOWN_HOSTS[-1]
    if in_order(host.version) <= in_order(newest):
        yield Finding("comfyui", State.OK, f"ComfyUI {host.version} is not newer than those known here", f"to {newest}")
        return
    idle = [name for name, state, _ in host.hooks if state in ("stood down", "unavailable")]
    what = f"ComfyUI {host.version} is newer than any that this version of XPU Nodes was checked with ({newest})"
    evidence = f"changes to ComfyUI that are off: {', '.join(idle)}" if idle else "it has all that this pack needs"
    fix = f"Update XPU Nodes. If it is the newest already and something fails, report that: {REPOSITORY}/issues"
    yield Finding("comfyui-newer", State.NOTE, what, evidence, everywhere(fix))


def in_order(version: str) -> list[int]:
    """A version of ComfyUI, to sort by."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def neighbours(machine: Machine) -> Iterator[Finding]:
    """What works on the same things as we do, and who of us does what."""
    for name, effect in machine.host.neighbours if machine.host else ():
        fixes = everywhere("Keep it if you want its way; to use ours, remove or switch it off and restart ComfyUI.")
        yield Finding("neighbour", State.NOTE, f"{name} {effect}", f"{name} was found in ComfyUI", fixes)


# The switch and its settings are read when a prompt begins.
_BY_THE_SWITCH = "throw *Protect every workflow* in the XPU tab, or undo what is named."


def hooks(machine: Machine) -> Iterator[Finding]:
    """Our own touches on the host."""
    for name, state, reason in machine.host.hooks if machine.host else ():
        if state == "unavailable":
            fixes = everywhere("Update ComfyUI (git pull) and restart.")
            what = f"Change to ComfyUI, {name}: not possible with this version"
            yield Finding("hook-unavailable", State.NOTE, what, reason, fixes)
        elif state == "unknown":
            fixes = everywhere("Correct the name, or take it out; after a change of the variable restart ComfyUI.")
            yield Finding("hook-unknown", State.WARNING, f"Change to ComfyUI, {name}: there is none", reason, fixes)
        elif state in ("applied", "not met yet"):
            shown = "on" if state == "applied" else "on when it is needed"
            yield Finding("hook", State.OK, f"Change to ComfyUI, {name}: {shown}", reason)
        else:
            fix = _BY_THE_SWITCH if name.startswith("protect") else "undo what is named and restart ComfyUI."
            fixes = everywhere(f"Nothing if that is meant; otherwise {fix}")
            yield Finding("hook-stood-down", State.NOTE, f"Change to ComfyUI, {name}: off", reason, fixes)


def last_words(machine: Machine) -> Iterator[Finding]:
    """What earlier runs have left."""
    for words in machine.left_behind:
        for work in words.silent:
            fixes = everywhere("Restart the computer if that happens again, and update the GPU's driver.")
            yield Finding("no-answer", State.WARNING, f"{work.device} gave no answer before", str(work), fixes)
        if words.running is not None:
            device = words.running.device
            what = f"ComfyUI ended before while {device} was at work, without an orderly end"
            fixes = everywhere(
                "Nothing if you ended it. Else the system's log (dmesg) says whether memory ran out or the GPU failed.",
                windows="Nothing if you ended it. Else the Event Viewer says what ended python.exe.",
            )
            yield Finding("ended-at-work", State.NOTE, what, str(words.running), fixes)


CHECKS = (start, version, neighbours, hooks, last_words)
