"""Upscale models that stay on the device they were placed on, and go on where that fails."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import comfy.model_management as model_management
import comfy.utils
import torch

from ..faults import FaultKind, NotFiniteError
from ..ladder import Failure
from ..placement import AUTO, Placement
from ..precision import dtype_of, name_of
from .health import lose
from .inventory import placement_for
from .moving import cpu
from .recovery import report
from .weights import HOST

LARGEST_TILE_PIXELS, SMALLEST_TILE_PIXELS, OVERLAP_PIXELS = 512, 128, 32
"""As in ComfyUI's upscale node, which halves its tile after each torch.OutOfMemoryError, then gives up."""

TILE_BYTES = 512 * 512 * 3 * 4 * 384
"""What ComfyUI's upscale node reckons with for its first tile."""

_WANT_OF_MEMORY = (FaultKind.OUT_OF_MEMORY, FaultKind.ALLOCATION_TOO_LARGE)


def upscale(model: Any, image: torch.Tensor, device: str, precision: str) -> tuple[torch.Tensor, Placement]:
    """Upscales pictures (N, H, W, 3) as ComfyUI's node does, but with the pictures on the host: they outlive a device.

    Args:
        model: an UPSCALE_MODEL of any loader; one that was placed already stays where it is with auto.

    Raises:
        RuntimeError: the CPU's own error, or one of the device's that is not known.
    """
    placed = model
    if not isinstance(model, PlacedUpscaler):
        placed = PlacedUpscaler(model, placement_for(device, precision))
    elif (device, precision) != (AUTO, AUTO):
        placed = model.placed_again(placement_for(device, precision))
    placed.make_room()
    try:
        result = _in_tiles(placed, image.movedim(-1, -3))
    finally:
        placed.to("cpu")
    return result.movedim(-3, -1).clamp(0, 1), placed.placement


def _in_tiles(placed: PlacedUpscaler, pictures: torch.Tensor) -> Any:
    """Upscales pictures (N, 3, H, W), in smaller tiles after each want of memory."""
    tile = LARGEST_TILE_PIXELS
    while True:
        steps = len(pictures) * comfy.utils.get_tiled_scale_steps(*pictures.shape[:-3:-1], tile, tile, OVERLAP_PIXELS)
        bar = comfy.utils.ProgressBar(steps)
        try:
            return comfy.utils.tiled_scale(
                pictures, placed, tile, tile, OVERLAP_PIXELS, upscale_amount=placed.scale, pbar=bar
            )
        except torch.OutOfMemoryError:
            if tile == SMALLEST_TILE_PIXELS:
                raise
        tile //= 2


class PlacedUpscaler:
    """An UPSCALE_MODEL for ComfyUI's upscale node, which would move it to the default device.

    The weights stay on the host; the node's `to(device)` before its work makes a copy on the placed device whatever
    device it names, and its `to("cpu")` after the work drops that. Tiles follow, and results return to where they
    came from. A failure for want of memory reaches the node as the error after which it halves its tile; after the
    smallest tile, and after any other failure that is known, the host's weights carry on.
    """

    def __init__(self, model: Any, placement: Placement) -> None:
        self._model = model
        dtype = dtype_of(placement.precision)
        if dtype is not None:
            model.to(dtype=dtype)
        self._working: Any = None
        """The copy on the placed device, while it works; on the CPU the model itself."""
        self.placement = dataclasses.replace(placement, precision=name_of(model.dtype))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def placed_again(self, placement: Placement) -> PlacedUpscaler:
        """The same model on another device or in another precision."""
        converted = dtype_of(placement.precision) not in (None, self._model.dtype)
        return PlacedUpscaler(copy.deepcopy(self._model) if converted else self._model, placement)

    @property
    def _device(self) -> torch.device:
        return self.placement.device.torch_device

    def to(self, device: Any = None, **keywords: Any) -> PlacedUpscaler:
        """Begins work where the device is any but the CPU, else ends it."""
        if str(device) == "cpu":
            self._working = None
        else:
            self.make_room()
        return self

    def make_room(self) -> None:
        """Has ComfyUI free what the model and its first tile need on the placed device."""
        if self._device != HOST:
            model_management.free_memory(model_management.module_size(self._model.model) + TILE_BYTES, self._device)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Upscales a batch of images (N, 3, H, W) in 0..1.

        Raises:
            torch.OutOfMemoryError: the device has not the memory, and the tile can be made smaller.
            RuntimeError: any other error of the device; also of the host, where that is the device.
        """
        try:
            return self._upscale(image)
        except (RuntimeError, MemoryError) as error:
            failure = Failure.of(error)
        if self._device == HOST or failure.kind is FaultKind.UNKNOWN:
            raise failure.error
        if failure.kind is FaultKind.DEVICE_LOST:
            lose(self._device, failure.error)
        elif failure.kind in _WANT_OF_MEMORY and max(image.shape[-2:]) > SMALLEST_TILE_PIXELS:
            raise torch.OutOfMemoryError(failure.message) from failure.error
        self._continue_on_host(failure)
        return self._upscale(image)

    def _upscale(self, image: torch.Tensor) -> torch.Tensor:
        if self._working is None:
            self._working = self._model if self._device == HOST else copy.deepcopy(self._model).to(self._device)
        answer = self._working(image.to(self._device, self._working.dtype))
        if not bool(torch.isfinite(answer).all()) and bool(torch.isfinite(image).all()):
            raise NotFiniteError("the upscaled tile holds NaN or infinity")
        return answer.to(image.device, image.dtype)

    def _continue_on_host(self, failure: Failure) -> None:
        left, device = self.placement.device.id, cpu()
        self._working = None
        reason = f"{failure.kind.value} on {left}, continued on {device.id}"
        self.placement = dataclasses.replace(self.placement, device=device, reason=reason, precision="fp32")
        self._model.to(dtype=torch.float32)  # the one format that every CPU computes at full speed
        report(failure, device=left, stage="upscale", words=device.id)
