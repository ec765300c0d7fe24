"""An image encoder that carries on elsewhere when its device fails."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
import torch

from ...decision import Kind, Subject
from ...placement import Placement
from ..placing.apply import apply
from ..placing.deciding import decide
from ..recovery.rungs import carry_on, check_finite
from ..target import clone_for
from .kinds import placed_as

STAGE = "encode image"


class PlacedClipVision(comfy.clip_vision.ClipVisionModel):
    """ComfyUI's CLIP vision model, whose encoding is repeated up the ladder after a failure."""

    @classmethod
    def of(cls, vision: comfy.clip_vision.ClipVisionModel) -> PlacedClipVision:
        """A CLIP vision object over the same weights and with the same attributes."""
        return placed_as(cls, vision)

    @property
    def load_device(self) -> torch.device:
        """Where it computes: its patcher is led elsewhere when a device fails or is lost."""
        return torch.device(self.patcher.load_device)

    def encode_image(self, *arguments: Any, **options: Any) -> Any:
        """Encodes pictures (N, H, W, 3).

        Raises:
            LadderExhaustedError: neither this device nor another can do it.
            ValueError: the weights hold NaN.
        """
        stock = super().encode_image

        def attempt() -> Any:
            answer = stock(*arguments, **options)
            check_finite(vars(answer), self.patcher, "The encoded image")
            return answer

        return carry_on(self.patcher, STAGE, attempt, given=(arguments, options))


def place_clip_vision(vision: Any, asked: Placement) -> tuple[Any, Placement]:
    """Places a CLIP_VISION."""
    decision = decide(asked, Subject(Kind.CLIP_VISION, torch.float32))
    placed = PlacedClipVision.of(vision)
    placed.patcher = clone_for(vision.patcher, asked.device.torch_device)
    placed.model = placed.patcher.model
    apply(decision, placed)
    return placed, decision.placement
