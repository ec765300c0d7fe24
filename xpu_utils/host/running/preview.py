"""Previews of placed models: the latent is on the host while ComfyUI's previewer is on a device."""

from __future__ import annotations

import functools
import logging
from typing import Any

import latent_preview
import torch

from ...calls import Call
from ...recovery.faults import FaultKind
from ...recovery.ladder import Failure
from ..hooks import State, named, put_for_good, record, switched_off
from ..recovery.rungs import STOPS
from ..target import HOST

HOOK = named("previews")


def apply_preview_hook() -> None:
    """Has previewers decode on their own device, and a preview that fails fail alone."""
    if switched_off(HOOK):
        return
    stock = getattr(latent_preview, "get_previewer", None)
    if stock is None:
        record(HOOK, State.UNAVAILABLE, "this ComfyUI has no get_previewer")
        return

    @functools.wraps(stock)
    def get_previewer(*arguments: Any, **keywords: Any) -> Any:
        call = Call(("device",), arguments, keywords)
        previewer, device = call.on(stock), call.get("device")
        if hasattr(previewer, "decode_latent_to_preview_image"):
            previewer.decode_latent_to_preview_image = _Decoder(previewer.decode_latent_to_preview_image, device)
        return previewer

    put_for_good(HOOK, latent_preview, "get_previewer", get_previewer, "previews are made on their own device")


class _Decoder:
    """A previewer's way from a latent to a picture."""

    def __init__(self, stock: Any, device: torch.device) -> None:
        self._stock = stock
        self._device = device
        self._failed = False

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The picture of a latent; None, which leaves ComfyUI the progress bar, once decoding has failed."""
        if self._failed:
            return None
        try:
            there = [self._moved(value) for value in arguments]
            return self._stock(*there, **{name: self._moved(value) for name, value in keywords.items()})
        except STOPS:
            raise
        except Exception as error:
            failure = Failure.of(error)
            if failure.kind is FaultKind.UNKNOWN:
                raise
        self._failed = True
        logging.warning(
            "XPU Nodes: previews on %s ended with %s (%s), sampling goes on.",
            self._device,
            failure.kind.value,
            failure.message,
        )
        return None

    def _moved(self, value: Any) -> Any:
        return value.to(self._device) if isinstance(value, torch.Tensor) and value.device == HOST else value
