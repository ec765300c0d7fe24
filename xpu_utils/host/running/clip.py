"""A text encoder that carries on elsewhere when its device fails."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch

from ...decision import Kind, Subject
from ...placement import Placement
from ..placing.apply import apply
from ..placing.deciding import decide
from ..placing.formats import WorkFormat
from ..placing.placed import placement_of
from ..recovery.rungs import carry_on, check_finite, placement_after
from ..stages import run_stage
from ..target import HOST, clone_for
from .kinds import placed_as

STAGE = "encode text"

_SUBJECT = Subject(Kind.CLIP, torch.float32)


class PlacedCLIP(comfy.sd.CLIP):
    """ComfyUI's CLIP, whose encoding is repeated up the ladder after a failure; clones are placed as well."""

    _encoding = False

    @classmethod
    def of(cls, clip: comfy.sd.CLIP) -> PlacedCLIP:
        """A CLIP object over the same weights and with the same attributes, and options of its own."""
        placed = placed_as(cls, clip)
        placed.tokenizer_options = clip.tokenizer_options.copy()
        return placed

    def clone(self, *arguments: Any, **keywords: Any) -> PlacedCLIP:
        return PlacedCLIP.of(super().clone(*arguments, **keywords))

    def encode_from_tokens(self, *arguments: Any, **keywords: Any) -> Any:
        return self._carried(STAGE, super().encode_from_tokens, *arguments, **keywords)

    def encode_from_tokens_scheduled(self, *arguments: Any, **keywords: Any) -> Any:
        return self._carried(STAGE, super().encode_from_tokens_scheduled, *arguments, **keywords)

    def generate(self, *arguments: Any, **keywords: Any) -> Any:
        """Newer hosts: language models write text from a seed of their own."""
        return self._carried("generate text", super().generate, *arguments, **keywords)

    def _carried(self, stage: str, encode: Any, /, *arguments: Any, **keywords: Any) -> Any:
        """Encodes or generates on the ladder, unless a call that is on it already asks."""
        if self._encoding:
            return encode(*arguments, **keywords)
        self.cond_stage_model = self.patcher.model  # ComfyUI's Select CLIP Device gives it another patcher alone
        work = WorkFormat(self.patcher, self.cond_stage_model)

        def attempt() -> Any:
            self._use_cpu_engine(work)
            answer = encode(*arguments, **keywords)
            check_finite(answer, self.patcher, "The conditioning")
            return answer

        def measured() -> tuple[Any, Placement]:
            asked = placement_of(self.patcher)
            assert asked is not None
            answer = carry_on(self.patcher, stage, attempt, given=(arguments, keywords))
            return answer, placement_after(self.patcher, asked)

        self._encoding = True
        try:
            answer, _ = run_stage(stage, measured)  # ComfyUI's own encode nodes say nothing of devices
        finally:
            self._encoding = False
            work.restore()
        return answer

    def _use_cpu_engine(self, work: WorkFormat) -> None:
        """Has work that came to the CPU from another device be done by the CPU's plan, in fp32 as it was there."""
        placement = placement_of(self.patcher)
        if placement is None or self.patcher.load_device != HOST or not placement.carried_over:
            return
        decision = decide(placement, _SUBJECT)
        work.hold_where_room(decision.dtype, decision.plan)
        apply(decision, self)


def place_clip(clip: Any, asked: Placement) -> tuple[Any, Placement]:
    """Places a CLIP.

    Raises:
        ValueError: there is no CLIP.
    """
    if clip is None:
        raise ValueError("The checkpoint holds no text encoder: load one with XPU Load CLIP and connect that instead.")
    decision = decide(asked, _SUBJECT)
    placed = PlacedCLIP.of(clip)
    placed.patcher = clone_for(clip.patcher, asked.device.torch_device)
    placed.cond_stage_model = placed.patcher.model
    apply(decision, placed)
    return placed, decision.placement
