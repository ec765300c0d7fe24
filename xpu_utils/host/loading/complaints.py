"""What ComfyUI says, or only logs, about damaged model files, as one sentence."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...weights.check import CheckpointError, part_of_several
from ...weights.header import LoadError
from ..hooks import listening, named

HOOK = named("missing weights")

# What begins the warnings with which ComfyUI reports weights that it did not find in a file, and then goes on with
# uninitialised memory in their place -> parts of names that such files leave out rightly.
_LEFT_OUT = ("logit_scale", "text_projection", "position_ids", "log_sigmas")
_MISSING: dict[str, tuple[str, ...]] = {
    "unet missing:": _LEFT_OUT,
    "clip missing:": _LEFT_OUT,
    "missing clip vision:": _LEFT_OUT,
    "missing controlnet keys:": _LEFT_OUT,
    "t2i missing": _LEFT_OUT,
    "Missing VAE keys": ("encoder.", "quant_conv."),  # a file that only decodes
}
_WEIGHTS = (".weight", ".bias")
_READERS = ("comfy.", "spandrel.")
"""Modules that look into files."""


@contextlib.contextmanager
def explained(*paths: Path) -> Iterator[None]:
    """Turns the host's known complaints about files into one sentence, and says of a part of a model that it is one.

    Raises:
        CheckpointError: one of them; any other error stays as it is.
    """
    try:
        yield
    except (LoadError, CheckpointError, LookupError, RuntimeError) as error:
        sentence = _sentence(error, ", ".join(path.name for path in paths))
        if sentence is None:
            raise
        raise CheckpointError(next(filter(None, map(part_of_several, paths)), sentence)) from error


def _sentence(error: Exception, names: str) -> str | None:
    """What is wrong with the files; None where the error does not tell that of them."""
    text = str(error)
    if isinstance(error, (LoadError, CheckpointError)):
        return text
    if isinstance(error, LookupError):  # what detection runs into when parts are missing
        told = _raised_by(error).startswith(_READERS)
        return f"{names} lacks parts that tell its kind ({error}): download it again." if told else None
    if "Could not detect model type" in text:
        return f"{names} holds no model that ComfyUI knows: choose another file."
    if "Error(s) in loading state_dict" in text:
        return f"{names} holds weights of unexpected shapes: download it again."
    return f"{names} holds no VAE: choose another file." if "VAE is invalid" in text else None


def _raised_by(error: Exception) -> str:
    """The module whose code ran into an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__", ""))


@contextlib.contextmanager
def missing_weights() -> Iterator[list[str]]:
    """The names of required weights that the host misses in the block; it only logs them."""
    listener = _Listener()
    with listening(HOOK, listener, "files that lack weights are refused, by what ComfyUI logs"):
        yield listener.missing


class _Listener(logging.Handler):
    """Collects the names of weights that the host reports missing."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.missing: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.missing += required_weights(record.getMessage())


def required_weights(message: str) -> list[str]:
    """The weights that a line of ComfyUI's log reports missing and that no file may leave out."""
    left_out = next((parts for start, parts in _MISSING.items() if message.startswith(start)), None)
    if left_out is None or "[" not in message:
        return []
    keys = [key.strip(" '\"[]") for key in message[message.index("[") :].split(",")]
    return [key for key in keys if key.endswith(_WEIGHTS) and not any(part in key for part in left_out)]


def forgive_decoder(network: Any, missing: list[str], name: str) -> None:
    """Takes a VAE's decoder out of what is missing if all of it is: some files (Stable Cascade's) hold just an encoder.

    Args:
        network: the VAE's.
        missing: names of required weights.
        name: the file's.
    """
    sides = {key.partition(".")[0] for key in missing}
    required = [weight for weight, _ in network.named_parameters() if weight.endswith(_WEIGHTS)]
    theirs = {weight for weight in required if weight.partition(".")[0] in sides}
    if missing and "encoder" not in sides and len(theirs) < len(required) and theirs <= set(missing):
        missing.clear()
        logging.warning("XPU Nodes: %s holds only an encoder, load another VAE to decode.", name)
