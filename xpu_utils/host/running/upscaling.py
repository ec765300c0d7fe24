"""Upscale models that stay on the device they were placed on, and go on where that fails."""

from __future__ import annotations

import copy
import functools
from typing import Any

import comfy.model_management as model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...choice import AUTO
from ...decision import Decision, Kind, Subject
from ...placement import Placement
from ...recovery.faults import FaultKind, NotFiniteError
from ...recovery.ladder import Failure, Rung
from ..inventory import placement_over
from ..placing.apply import apply
from ..placing.deciding import decide
from ..placing.formats import WorkFormat
from ..placing.placed import placement_of
from ..prompts import current_execution
from ..recovery.rungs import STOPS, Recovery, asked_in_fp32, placement_after
from ..recovery.weights import SOURCE
from ..stages import decided
from ..target import HOST, unload

STAGE = "upscale"

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
        LadderExhaustedError: neither this device nor another can do it.
    """
    placed, already = model, model.placement if isinstance(model, PlacedUpscaler) else None
    if already is None or (device, precision) != (AUTO, AUTO):
        placed, _ = place_upscaler(model, placement_over(already, device, precision))
    decided(placed.placement)
    try:
        result = _in_tiles(placed, image.movedim(-1, -3))
    finally:
        placed.end()
    return result.movedim(-3, -1).clamp(0, 1), placement_after(placed.patcher, placed.placement)


def place_upscaler(model: Any, asked: Placement) -> tuple[PlacedUpscaler, Placement]:
    """Places an UPSCALE_MODEL."""
    placed = model.placed_again(asked) if isinstance(model, PlacedUpscaler) else PlacedUpscaler.of(model, asked)
    return placed, placed.placement


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


def _decision_on(descriptor: Any, asked: Placement) -> Decision:
    stands = {torch.bfloat16: descriptor.supports_bfloat16, torch.float16: descriptor.supports_half}
    formats = (torch.float32, *(dtype for dtype, well in stands.items() if well))
    return decide(asked, Subject(Kind.UPSCALER, descriptor.dtype, formats))


class _SmallerTile(torch.OutOfMemoryError):
    """Has the caller halve its tile."""


class PlacedUpscaler:
    """An UPSCALE_MODEL for ComfyUI's upscale node, which would move it to the default device.

    Work begins with the first tile and ends with the node's `to("cpu")`. Newer hosts' node has no such last word: there
    it ends when another node asks for the patcher. In between the weights are on the placed device whatever device the
    node names. Tiles follow, and results return to where they came from. A failure for want of memory reaches the node
    as the error after which it halves its tile; after the smallest tile, and after any other failure that is known, the
    work goes on up the ladder.
    """

    def __init__(self, model: Any, placement: Placement) -> None:
        """`model` is converted where it is, for an owner of it: see `of`."""
        self._model = model
        self._patcher = ModelPatcher(model.model, load_device=placement.device.torch_device, offload_device=HOST)
        self._recovery: Recovery | None = None
        """Set while it works, as are the format that it works in and the node's execution that it works for."""
        self._format: WorkFormat | None = None
        self._execution: object = None
        apply(_decision_on(model, placement), self, owned=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # nothing of ours is there yet, or what `copy` and `pickle` look for
            raise AttributeError(name)
        return getattr(self._model, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are placed alike, by a patcher of their own."""
        self.end()
        return type(self), (self._model, self.placement)

    @property
    def patcher(self) -> ModelPatcher:
        """Of the model, which is back where it was placed if another node worked with it before."""
        if self._execution != current_execution():
            self.end()
        return self._patcher

    @property
    def placement(self) -> Placement:
        placement = placement_of(self.patcher)
        assert placement is not None
        return placement

    def placed_again(self, placement: Placement) -> PlacedUpscaler:
        """The same model on another device or in another precision."""
        again = PlacedUpscaler.of(self._model, placement)
        again.patcher.set_attachments(SOURCE, self.patcher.get_attachment(SOURCE))
        return again

    @classmethod
    def of(cls, model: Any, placement: Placement) -> PlacedUpscaler:
        """A placed model over the same weights, or over a copy where it is to hold them in another way."""
        decision = _decision_on(model, placement)
        converted = decision.dtype != model.dtype or decision.plan is not None
        return cls(copy.deepcopy(model) if converted else model, placement)

    def to(self, *arguments: Any, **keywords: Any) -> PlacedUpscaler:
        """Ends work where the device is the CPU."""
        if "cpu" in map(str, (*arguments, *keywords.values())):
            self.end()
        return self

    def end(self) -> None:
        """Takes the weights back to the host, and the model back to where it was placed."""
        if self._recovery is None or self._format is None:
            return
        self._format.restore()
        self._recovery.restore()
        self._recovery = self._format = self._execution = None
        unload(self._patcher)

    def __call__(self, image: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        """Upscales a batch of images (N, 3, H, W) in 0..1.

        Raises:
            torch.OutOfMemoryError: the device has not the memory, and the tile can be made smaller.
            LadderExhaustedError: neither this device nor another can do it.
        """
        recovery = self._begun()

        def attempt() -> torch.Tensor:
            try:
                return self._upscale(image, *arguments, **keywords)
            except RuntimeError as error:
                failure = Failure.of(error)
            if failure.kind in _WANT_OF_MEMORY and max(image.shape[-2:]) > SMALLEST_TILE_PIXELS:
                raise _SmallerTile(failure.message) from failure.error
            raise failure.error

        rungs = {Rung.FP32: self._compute_in_fp32}
        work = functools.partial(recovery.watched, attempt, image.shape)
        return recovery.carry_on(work, rungs, passing=(*STOPS, _SmallerTile))

    def _begun(self) -> Recovery:
        """Begins work, unless it has begun."""
        patcher = self.patcher
        if self._recovery is None:
            self._recovery = Recovery(patcher, STAGE)
            self._format = WorkFormat(patcher, self._model.model)
            self._execution = current_execution()
        return self._recovery

    def _upscale(self, image: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        device = self.patcher.load_device
        if device == HOST and self.placement.carried_over:
            self._use_cpu_engine()
        model_management.load_models_gpu([self.patcher], memory_required=TILE_BYTES)
        answer = self._model(image.to(device, self._model.dtype), *arguments, **keywords)
        if not bool(torch.isfinite(answer).all()) and bool(torch.isfinite(image).all()):
            raise NotFiniteError("the upscaled tile holds NaN or infinity")
        return answer.to(image.device, image.dtype)

    def _use_cpu_engine(self) -> None:
        """Has work that came to the CPU from another device be done in the format of the CPU's plan."""
        decision = _decision_on(self._model, self.placement)
        if self._model.dtype != decision.dtype:
            self._hold(decision)

    def _compute_in_fp32(self, failure: Failure) -> str | None:
        if self._model.dtype == torch.float32:
            return None
        self._hold(_decision_on(self._model, asked_in_fp32(self.patcher, failure)))
        return "fp32"

    def _hold(self, decision: Decision) -> None:
        assert self._format is not None
        self._format.hold(decision.dtype, decision.plan)
        apply(decision, self)
