"""ComfyUI empties the caches of all devices between prompts and models, on the thread that runs the prompts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import comfy.model_management as model_management
import torch

from ...machine.devices import Device
from ...recovery.faults import FaultKind, classify
from ...recovery.live import read_a_value_of_each
from ...recovery.watch import hanging_devices
from ...selftest.result import keeps_results, test_emptying
from .. import hooks
from ..inventory import host_inventory
from .lost import answers

HOOK = hooks.named("cache emptying")


def apply_cache_hook() -> None:
    """Has caches be emptied only while every device answers, and the error of a lost one be passed over.

    Before that something of all that is on a device is read, where results are NaN otherwise.
    """
    original: Callable[..., Any] = model_management.soft_empty_cache
    if hooks.switched_off(HOOK):
        return
    if not host_inventory().accelerators:
        hooks.record(HOOK, hooks.State.STOOD_DOWN, "ComfyUI uses no accelerator in this process")
        return

    @functools.wraps(original)
    def soft_empty_cache(*arguments: Any, **keywords: Any) -> None:
        for device in host_inventory().accelerators:
            answers(device.torch_device, functools.partial(_settle, device), "empty cache")
        if hanging_devices():  # PyTorch empties those of all devices at once, and holds up the whole process in it
            return
        try:
            original(*arguments, **keywords)
        except RuntimeError as error:
            if classify(error) is not FaultKind.DEVICE_LOST:
                raise

    does = "a device that does not answer is left out, and the error of a lost one passed over"
    hooks.put_for_good(HOOK, model_management, "soft_empty_cache", soft_empty_cache, does)


def _settle(device: Device) -> None:
    """Waits for the work on a device; a failed one says so where its result is used.

    Whether its results outlive what follows is tested once something is there, and that is read before.
    """
    module: Any = torch.get_device_module(device.type)
    try:
        module.synchronize(device.torch_device)
        if module.memory_allocated(device.torch_device):
            if not keeps_results(device):
                read_a_value_of_each(device.torch_device)
            if not hanging_devices():
                test_emptying(device)
    except RuntimeError as error:
        if classify(error) is FaultKind.UNKNOWN:
            raise
