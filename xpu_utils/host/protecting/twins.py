"""The placed twin of each model that stock nodes use, made once: ComfyUI finds its weights where it left them."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management as model_management
import torch

from ...choice import AUTO
from ...placement import Placement
from ...precision import INT8
from ...recovery.faults import is_lost, lost_devices
from ..inventory import host_inventory, placement_for
from ..placing.placed import follow
from ..recovery import takeover
from ..recovery.lost import readied
from ..recovery.weights import allow_a_host_copy
from ..running import noise
from ..running.clip import PlacedCLIP, place_clip
from ..running.clip_vision import PlacedClipVision, place_clip_vision
from ..running.sampling import place_model
from ..running.vae import PlacedVAE, place_vae
from ..target import unload
from .settings import AS_COMFYUI, Protection


@dataclasses.dataclass(frozen=True)
class _Twin:
    made_from: object
    """What the original was when it was placed: after a change it is placed again."""
    attributes: dict[str, Any]
    """What the placed object has instead of the original's; nothing in them refers to the original."""


class Twins:
    """Placed twins by the patcher of their original, as long as that lives."""

    def __init__(self, protection: Protection) -> None:
        self.protection = protection
        self._twins: weakref.WeakKeyDictionary[Any, _Twin] = weakref.WeakKeyDictionary()

    def of_model(self, patcher: Any) -> Any:
        """The placed MODEL."""

        def place() -> Any:
            asked = dataclasses.replace(self.placement(patcher.load_device), precision=self.protection.precision)
            placed, _ = place_model(patcher, asked)
            if self.protection.seeds == AS_COMFYUI:
                placed.set_attachments(noise.AS_COMFYUI, True)
            return {"patcher": placed}

        return self._attributes(patcher, patcher.model_options, place)["patcher"]

    def of_clip(self, clip: Any) -> PlacedCLIP:
        """The placed CLIP, otherwise as the given one is now."""
        placed = PlacedCLIP.of(clip)
        placed.__dict__.update(self._placed_parts(clip, place_clip, ["patcher"]))
        return placed

    def of_clip_vision(self, vision: Any) -> PlacedClipVision:
        """The placed CLIP_VISION."""
        placed = PlacedClipVision.of(vision)
        placed.__dict__.update(self._placed_parts(vision, place_clip_vision, ["patcher"]))
        return placed

    def of_vae(self, vae: Any) -> PlacedVAE:
        """The placed VAE, otherwise as the given one is now."""
        placed = PlacedVAE.of(vae)
        placed.__dict__.update(self._placed_parts(vae, place_vae, ["patcher", "first_stage_model", "vae_dtype"]))
        return placed

    def placement(self, own: torch.device) -> Placement:
        """Where a model goes whose device ComfyUI chose: there, unless another was asked for or that one is lost.

        What is in int8 is the diffusion model alone: the others compute in what is right for their device.

        Raises:
            LadderExhaustedError: only the CPU is left, and may not take over.
        """
        asked = self.protection
        if asked.device != "cpu" and lost_devices() and not host_inventory().accelerators:
            takeover.check(f"{', '.join(lost_devices())} was lost, only the CPU is left")
        precision = AUTO if asked.precision == INT8 else asked.precision
        if asked.device != AUTO:
            return placement_for(asked.device, precision, asked.resident)
        return dataclasses.replace(placement_for(str(own), precision, asked.resident), requested=AUTO)

    def _placed_parts(self, whole: Any, place: Callable[..., Any], names: Sequence[str]) -> dict[str, Any]:
        def parts() -> dict[str, Any]:
            placed, _ = place(whole, self.placement(whole.patcher.load_device))
            return {name: getattr(placed, name) for name in names}

        dtype = getattr(whole, "vae_dtype", None)
        return self._attributes(whole.patcher, dtype, parts)

    def _attributes(self, patcher: Any, further: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        follow(patcher)
        made_from = (_state(patcher), _identities(further))
        twin = self._twins.get(patcher)
        if twin is None or twin.made_from != made_from:
            if twin is not None:
                _drop(twin)
            readied(patcher, allow_a_host_copy)
            twin = _Twin(made_from, make())
            # ComfyUI keeps a model under its patcher's parent when the patcher is gone: not under the original, which
            # the twin would keep alive and which goes when the twin does.
            twin.attributes["patcher"].parent = patcher.parent
            self._twins[patcher] = twin
        return twin.attributes

    def forget(self) -> None:
        """Leaves the originals to ComfyUI."""
        for twin in list(self._twins.values()):
            _drop(twin)
        self._twins.clear()


def _drop(twin: _Twin) -> None:
    patcher = twin.attributes["patcher"]
    if not is_lost(patcher.load_device):
        unload(patcher)


def _state(patcher: Any) -> object:
    """What a clone of a patcher takes over, and a node might change afterwards."""
    return (
        patcher.patches_uuid,
        patcher.force_cast_weights,
        id(patcher.forced_hooks),
        *(_identities(getattr(patcher, name)) for name in ("object_patches", "wrappers", "injections")),
    )


def _identities(value: Any) -> object:
    """A nest of dicts and lists with everything else in it replaced by its identity, for comparing."""
    if isinstance(value, dict):
        return tuple((key, _identities(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_identities(entry) for entry in value)
    return id(value)


def default_device() -> torch.device:
    """The device that ComfyUI gives what has no device of its own, such as an upscale model."""
    device: torch.device = model_management.get_torch_device()
    return device
