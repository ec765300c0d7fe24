"""Why Intel GPUs of this machine are not used: the doctor's findings, in the inventory's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ..machine.devices import Inventory, Rejection
from ..machine.gpus import Gpu
from . import python, system
from .findings import Finding, State, everywhere
from .machine import Machine, look


def explained(inventory: Inventory) -> Inventory:
    """The inventory with the reason for each Intel GPU that PyTorch does not show."""
    return dataclasses.replace(inventory, rejected=(*inventory.rejected, *unused(look(inventory=inventory))))


def unused(machine: Machine) -> list[Rejection]:
    """One rejection for each Intel GPU that PyTorch does not show, or one of "xpu" where there is no XPU at all."""
    xpus = [device for device in machine.inventory.devices if device.type == "xpu"]
    known = [entry.what for entry in machine.inventory.rejected if entry.what.split(":")[0] == "xpu"]
    # A device that failed, as one of a build that does not report ids, accounts for one GPU.
    visible = [device.pci_device_id for device in xpus] + [None] * len(known)
    hidden = []
    for gpu in machine.gpus if "xpu" not in known else ():
        if gpu.pci_device_id in visible:
            visible.remove(gpu.pci_device_id)
        elif None in visible:
            visible.remove(None)
        else:
            hidden.append(_rejection(str(gpu), _alone(machine, gpu), machine))
    return hidden if hidden or xpus or known else [_rejection("xpu", machine, machine)]


def _alone(machine: Machine, gpu: Gpu) -> Machine:
    """The machine as if it had no GPU but this one, which PyTorch does not show."""
    inventory = Inventory(devices=machine.inventory.devices[-1:], rejected=())
    nodes = tuple(node for node in machine.render_nodes if gpu.render_node in ("", node.path))
    return dataclasses.replace(machine, gpus=(gpu,), render_nodes=nodes, inventory=inventory)


def _rejection(what: str, alone: Machine, machine: Machine) -> Rejection:
    found = next((finding for finding in _findings(alone, machine) if finding.state is not State.OK), None)
    if found is None:
        return Rejection(what, "PyTorch does not show it", "restart the machine, or update the driver")
    return Rejection(what, f"{found.what}: {found.evidence}", found.fix_for(machine.system))


def _findings(alone: Machine, machine: Machine) -> Iterator[Finding]:
    """In the order in which they keep a GPU from being used."""
    yield from system.age(alone)
    yield from python.torch_build(machine)
    yield from python.hiding(machine)
    yield from system.kernel_driver(alone)
    yield from system.stopped(alone)
    yield from system.render_permission(alone)
    yield from system.level_zero(machine)
    yield from _beside_a_card(alone, machine)
    yield from python.devices(alone)


def _beside_a_card(alone: Machine, machine: Machine) -> Iterator[Finding]:
    """PyTorch lists integrated GPUs only where there is nothing else (c10/xpu, Note [Device Management])."""
    card = next((device for device in machine.inventory.accelerators if not device.integrated), None)
    if card is not None and any(gpu.integrated for gpu in alone.gpus):
        what = "PyTorch leaves integrated GPUs out where there is a card with memory of its own"
        fixes = everywhere("Nothing is wrong. To use it instead, hide the card: start with ZE_AFFINITY_MASK=1.")
        yield Finding("integrated-left-out", State.NOTE, what, f"{card.id} is {card.name}", fixes)
