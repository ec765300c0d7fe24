"""ComfyUI's memory management: given a true figure of free memory, and asked to let go of what it holds."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management as model_management
import torch

from ..calls import StandIn
from ..machine.devices import Device
from ..memory.free import count_as_ours, read_memory
from ..recovery.faults import first_line
from ..telemetry.readings import Unavailable
from . import neighbours
from .hooks import State, named, put, put_for_good, reaches, record, switched_off
from .inventory import host_inventory
from .target import HOST

FREE_MEMORY_HOOK = named("free memory")
FRACTION_HOOK = named("memory fraction")
UNLOADING_HOOK = named("unloading")


def apply_free_memory_hook() -> None:
    """Has ComfyUI's `get_free_memory` answer for XPUs what really is free.

    Its own figure is the total less what PyTorch's allocator holds in this process: it does not see other programs
    (ComfyUI #15323). Every other device is left to it.
    """
    if switched_off(FREE_MEMORY_HOOK):
        return
    stock = getattr(model_management, "get_free_memory", None)
    if stock is None:
        record(FREE_MEMORY_HOOK, State.UNAVAILABLE, "this ComfyUI has no get_free_memory")
        return
    devices = {device.torch_device: device for device in host_inventory().accelerators if device.type == "xpu"}
    reason = _why_stand_down(stock, devices)
    if reason:
        record(FREE_MEMORY_HOOK, State.STOOD_DOWN, reason)
        return
    if neighbours.aimdo_manages_memory():
        count_as_ours(neighbours.aimdo_bytes)
    ours = _truthful(stock, devices)
    put(model_management, "get_free_memory", ours)
    _record_applied(ours, devices)


def _record_applied(ours: Any, devices: Mapping[torch.device, Device]) -> None:
    names = ", ".join(device.id for device in devices.values())
    record(
        FREE_MEMORY_HOOK,
        State.APPLIED,
        f"the figure of free memory counts other programs on {names}",
        in_force=lambda: reaches(model_management.get_free_memory, ours),
    )


def _why_stand_down(stock: Any, devices: Mapping[torch.device, Device]) -> str:
    if not devices:
        return "ComfyUI uses no XPU in this process"
    if getattr(stock, "__module__", "") != model_management.__name__ or hasattr(stock, "__wrapped__"):
        return f"get_free_memory was replaced by {neighbours.pack_of(stock)}"
    try:
        source = inspect.getsource(stock)
    except (OSError, TypeError):
        return "get_free_memory is not plain Python here"
    # ComfyUI's own fix would ask the driver (its PR #15487): the stock XPU branch asks the allocator only.
    return "this ComfyUI asks the driver itself" if "xpu.mem_get_info" in source else ""


def _truthful(stock: Callable[..., Any], devices: Mapping[torch.device, Device]) -> Callable[..., Any]:
    blind: set[Device] = set()

    def get_free_memory(dev: Any = None, torch_free_too: bool = False) -> Any:
        wanted = model_management.get_torch_device() if dev is None else dev
        device = devices.get(_with_index(wanted))
        if device is None:
            return None
        try:
            memory = read_memory(device)
        except Unavailable as error:
            if device not in blind:
                blind.add(device)
                record(FREE_MEMORY_HOOK, State.STOOD_DOWN, f"ComfyUI's own figure is used: {error}")
            return None
        if device in blind:
            blind.remove(device)
            _record_applied(ours, devices)
        return (memory.free_bytes, memory.cached_bytes) if torch_free_too else memory.free_bytes

    ours = functools.wraps(stock)(StandIn(stock, get_free_memory))
    return ours


def _with_index(device: Any) -> Any:
    """PyTorch's "xpu" is the current XPU."""
    if isinstance(device, torch.device) and device.type == "xpu" and device.index is None:
        return torch.device("xpu", torch.xpu.current_device())
    return device


def apply_memory_fraction() -> None:
    """Caps what PyTorch's allocator may take at the profile's share of each device's memory.

    With a cap, even of 1.0, running out is an ordinary `torch.OutOfMemoryError` instead of a fatal error of the driver
    (pytorch #190972).
    """
    if switched_off(FRACTION_HOOK):
        return
    if neighbours.allocator_is_aimdos():
        record(FRACTION_HOOK, State.STOOD_DOWN, "comfy-aimdo's allocator is in PyTorch's place and takes no limit")
        return
    fractions = {device: device.profile.memory_fraction for device in host_inventory().accelerators}
    wanted = {device: fraction for device, fraction in fractions.items() if fraction is not None}
    if not wanted:
        record(FRACTION_HOOK, State.STOOD_DOWN, "no device here needs it")
        return
    problems = {device: _limit(device, fraction) for device, fraction in wanted.items()}
    limits = [f"{wanted[device]:.0%} of {device.id}'s memory" for device, problem in problems.items() if not problem]
    failed = [f"{device.id}: {problem}" for device, problem in problems.items() if problem]
    if limits:
        reason = "; ".join([f"PyTorch may take at most {', '.join(limits)}", *failed])
        record(FRACTION_HOOK, State.APPLIED, reason)
    else:
        record(FRACTION_HOOK, State.UNAVAILABLE, "; ".join(failed))


def _limit(device: Device, fraction: float) -> str:
    """Sets the cap; answers why that was not possible, or nothing."""
    setter = getattr(torch.get_device_module(device.type), "set_per_process_memory_fraction", None)
    if setter is None:
        return "this PyTorch cannot cap its allocator"
    try:
        setter(fraction, device.index)
    except (RuntimeError, ValueError) as error:
        return first_line(error)
    return ""


def apply_unloading_hook() -> None:
    """Has every model in ComfyUI's list live until `free_memory`, which goes through that list by number, is done.

    What an error or an interrupt leaves refers to itself. Where Python collects that while its model is unloaded,
    ComfyUI takes the model out of the list in the middle, and the thread that runs prompts ends with "pop from empty
    list".
    """
    if switched_off(UNLOADING_HOOK):
        return
    stock: Callable[..., Any] = model_management.free_memory

    @functools.wraps(stock)
    def free_memory(*arguments: Any, **keywords: Any) -> Any:
        _held = [loaded.model for loaded in model_management.current_loaded_models]
        return stock(*arguments, **keywords)

    does = "a model that nobody else holds lives until it is unloaded"
    put_for_good(UNLOADING_HOOK, model_management, "free_memory", free_memory, does)


def host_room_bytes(patcher: Any) -> float:
    """Free main memory that remains when a patcher's model is on its device, which may take as much of it."""
    free_bytes = float(model_management.get_free_memory(HOST))
    device = host_inventory().find(str(patcher.load_device))
    try:
        takes = device is not None and device.type != "cpu" and read_memory(device).takes_host_memory
    except Unavailable:
        takes = False
    return free_bytes - (patcher.model_size() - patcher.loaded_size()) if takes else free_bytes


def free_memory() -> str:
    """Unloads every model from every device and answers what that freed, in one line."""
    return ", ".join(f"{device.id}: {free_others(device.torch_device, [])}" for device in host_inventory().devices)


def free_others(device: torch.device, keep: list[Any]) -> str:
    """Unloads every model from the device but the given patchers' and empties the cache; says what that freed."""
    before = model_management.get_free_memory(device)
    kept = [
        loaded
        for loaded in model_management.current_loaded_models
        if loaded.model is not None and any(loaded.model.is_clone(patcher) for patcher in keep)
    ]
    model_management.free_memory(1e30, device, keep_loaded=kept)
    gc.collect()
    model_management.soft_empty_cache()
    freed = max(0, model_management.get_free_memory(device) - before)
    return f"{freed / 2**20:.0f} MiB freed"
