"""The ControlNets and other models that a model is sampled together with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.sampler_helpers as sampler_helpers
import comfy.samplers
import torch

from ...recovery.faults import is_lost
from ..inventory import runs_on
from ..placing.placed import placement_of
from ..recovery.lost import readied
from ..recovery.weights import allow_a_host_copy, make_ready, recover
from ..target import retarget, unload


class Companions:
    """The models beside a guider's own; those that none of our nodes placed follow it from device to device."""

    def __init__(self, guider: Any) -> None:
        self._guider = guider
        self._came_from: list[tuple[Any, torch.device]] = []
        self._adapters: dict[int, tuple[Any, torch.device]] = {}
        """T2I adapters, which no patcher holds, and where they were, by identity."""

    def follow(self, device: torch.device) -> None:
        """Has them load where the model does; what was on a lost device comes back."""
        for patcher in self._patchers():
            readied(patcher, allow_a_host_copy)
            readied(patcher, make_ready)
            if placement_of(patcher) is None and patcher.load_device != device and not _is_copy(patcher):
                self._came_from.append((patcher, patcher.load_device))
                _lead(patcher, device)
        for control in self.controls():
            control.cond_hint = None  # kept on the device that it was first used on, and what follows from it as well
            if hasattr(control, "t2i_model"):
                self._adapters.setdefault(id(control), (control, control.device))
                control.device, control.control_input = device, None

    def prepare(self) -> None:
        """Again what ComfyUI does before a run, after the model has moved: Control-LoRAs take its weights."""
        model = self._guider.model_patcher.model
        with runs_on(self._guider.model_patcher.load_device):
            for conditions in self._guider.conds.values():
                comfy.samplers.pre_run_control(model, conditions)

    def restore(self) -> None:
        """Leads them back to where they were, unless that device is gone: a stock graph may use them next."""
        for patcher, device in reversed(self._came_from):
            if not is_lost(device):
                _lead(patcher, device)
        self._came_from.clear()
        for adapter, device in self._adapters.values():
            adapter.device = device
        self._adapters.clear()

    def loaded(self) -> list[Any]:
        """Those that ComfyUI loads with the model; none before it has."""
        return list(getattr(self._guider, "loaded_models", []))

    def controls(self) -> Iterator[Any]:
        """The ControlNets of all conditions; one that several share comes again."""
        for conditions in self._guider.conds.values():
            for condition in conditions:
                yield from chain(condition.get("control"))

    def _patchers(self) -> list[Any]:
        model = self._guider.model_patcher
        found, _ = sampler_helpers.get_additional_models(self._guider.conds, model.model_dtype())
        found += sampler_helpers.get_additional_models_from_model_options(self._guider.model_options)
        found += model.get_nested_additional_models()
        found += model.model_patches_models()
        return [patcher for patcher in dict.fromkeys(found) if hasattr(patcher, "load_device")]


def chain(control: Any) -> Iterator[Any]:
    """A condition's ControlNet and those before it."""
    while control is not None:
        yield control
        control = control.previous_controlnet


def _is_copy(patcher: Any) -> bool:
    """Whether it is MultiGPU CFG Split's copy of the model, which computes some of the conditions on its device."""
    return bool(getattr(patcher, "is_multigpu_base_clone", False))


def _lead(patcher: Any, device: torch.device) -> None:
    readied(patcher, _back_on_the_host)
    retarget(patcher, device)


def _back_on_the_host(patcher: Any) -> None:
    if not recover(patcher):
        unload(patcher)
