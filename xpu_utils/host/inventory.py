"""The devices that this ComfyUI process can use."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import comfy.model_management as model_management
import torch
from comfy.cli_args import args

from ..choice import AUTO
from ..doctor.machine import look
from ..doctor.unused import unused
from ..machine.devices import Device, Inventory, Rejection, find_devices
from ..placement import Placement, place
from ..recovery.faults import lost_devices
from . import hooks
from .neighbours import without_dynamic_vram

DEFAULT_HOOK = hooks.named("default device while loading")
RUNNING_HOOK = hooks.named("default device while sampling")


def host_inventory() -> Inventory:
    """The machine's devices without those that ComfyUI itself does not work with in this process.

    ComfyUI's memory management knows one kind of accelerator at a time, and none when started with --cpu. A device
    that was lost stays lost until the process ends.
    """
    machine, lost = _machine(), lost_devices()
    rejected = [*machine.rejected]
    rejected += [
        Rejection(device_id, f"it was lost in this process: {error}", "restart ComfyUI")
        for device_id, error in lost.items()
    ]
    return Inventory(tuple(device for device in machine.devices if device.id not in lost), tuple(rejected))


def explained_inventory() -> Inventory:
    """The same with the reason for each Intel GPU that PyTorch does not show: looked for once, when somebody asks."""
    inventory = host_inventory()
    return dataclasses.replace(inventory, rejected=(*inventory.rejected, *_unused()))


@functools.cache
def _unused() -> tuple[Rejection, ...]:
    return tuple(unused(look(inventory=_machine())))


@functools.cache
def _machine() -> Inventory:
    """What ComfyUI can use when nothing is lost; read once, since a lost device cannot be asked again."""
    inventory = find_devices()
    kind = "cpu" if args.cpu else model_management.get_torch_device().type
    usable = tuple(device for device in inventory.devices if device.type in (kind, "cpu"))
    left_out = tuple(_left_out(device, kind) for device in inventory.devices if device not in usable)
    return dataclasses.replace(inventory, devices=usable, rejected=(*inventory.rejected, *left_out))


def _left_out(device: Device, kind: str) -> Rejection:
    if args.cpu:
        return Rejection(device.id, "ComfyUI was started with --cpu", "start it without --cpu")
    return Rejection(
        device.id, f"ComfyUI runs on {kind} in this process", f"start ComfyUI so that it picks {device.type}"
    )


def placement_for(requested: str, precision: str, resident: str = AUTO) -> Placement:
    """Where work that asked for this goes; the device "auto" is the machine's best, also after its loss.

    Raises:
        ValueError: the device string is malformed, or there is no such precision.
    """
    best, inventory = _machine().best.id, host_inventory()
    wanted = best if requested == AUTO and inventory.find(best) is None else requested
    if wanted != AUTO and inventory.find(wanted) is None:
        inventory = explained_inventory()
    placement = place(wanted, inventory, precision=precision)
    return dataclasses.replace(placement, requested=requested, resident=resident, reference=precision == "fp32")


def placement_over(already: Placement | None, device: str, precision: str) -> Placement:
    """Where work on an object goes that may be placed already: then its share stays, and "auto" leaves its device.

    Raises:
        ValueError: the device string is malformed, or there is no such precision.
    """
    asked = placement_for(device, precision, AUTO if already is None else already.resident)
    if already is None or device != AUTO:
        return asked
    return dataclasses.replace(already, precision=asked.precision, carried_over=False, reference=asked.reference)


def left_where_it_is(asked: Placement, why: str) -> Placement:
    """Where something runs that does not go where it was asked to, but where ComfyUI has it."""
    stays = dataclasses.replace(placement_for(AUTO, AUTO), requested=asked.requested)
    differs = (stays.device, AUTO) != (asked.device, asked.precision)
    return stays.because(why) if differs else stays.noting(why)


@contextlib.contextmanager
def as_default(device: torch.device) -> Iterator[None]:
    """Makes a device ComfyUI's default for the block, so that its loaders choose formats for that device.

    For the CPU this is what --cpu does; for an accelerator it is PyTorch's current device, which ComfyUI asks.
    """
    does = "files for the CPU are loaded as with --cpu"
    with_mapping = contextlib.nullcontext() if device.type != "cpu" else without_dynamic_vram()
    with _default(device, DEFAULT_HOOK, does), with_mapping:
        yield


@contextlib.contextmanager
def runs_on(device: torch.device) -> Iterator[None]:
    """Makes the device that a model is called on ComfyUI's default for the block, if it is not.

    Control-LoRAs, T2I adapters and functions of other packs put their tensors there.
    """
    if device == model_management.get_torch_device():
        yield
        return
    with _default(device, RUNNING_HOOK, "what is made while a model computes on the CPU is made there"):
        yield


@contextlib.contextmanager
def _default(device: torch.device, hook: str, does: str) -> Iterator[None]:
    if device.type == "cpu":
        with hooks.put_meanwhile(hook, model_management, does, cpu_state=model_management.CPUState.CPU):
            yield
    else:
        with torch.get_device_module(device.type).device(device.index):
            yield
