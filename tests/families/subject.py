"""What is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch

Kind = Literal["MODEL", "VAE", "CLIP", "CONTROL_NET"]


@dataclasses.dataclass(frozen=True)
class Subject:
    """An object that nodes hand on."""

    name: str
    load: Callable[[], Any]
    """Answers it with weights of its own; it computes on the CPU in fp32."""
    work: Callable[[Any], torch.Tensor]
    """Has it compute; the answer is on the host."""
    kind: Kind = "MODEL"
    rounded: Callable[[torch.dtype], Any] | None = None
    """Answers it as ComfyUI loads it in another format; None where that is no other than the loaded one told so."""
    lora: Callable[[Any], Any] | None = None
    """Answers it with a LoRA."""
    keeps: bool = False
    """Whether it keeps on a card what it computed: after a loss that is computed anew, and rounds otherwise."""

    @property
    def streams(self) -> bool:
        """Whether what does not stay on a card streams; else ComfyUI loads a part of it."""
        return self.kind in ("MODEL", "CONTROL_NET")
