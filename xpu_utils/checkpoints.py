"""Model files: what can be said of one before the host reads it, and of weights after."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".bin", ".pth", ".pkl")

# First bytes -> what the file really is. Sources: the formats' specifications.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PK\x03\x04", "a zip archive or a PyTorch pickle"),
    (b"\x80", "a Python pickle"),
    (b"GGUF", "a GGUF file"),
    (b"<", "a web page, perhaps a failed download"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)


class CheckpointError(ValueError):
    """A model file that cannot be used; the message is one sentence: what, why, what to do."""


def check_file(path: Path, *, pickles_allowed: bool) -> None:
    """Refuses a file that cannot hold usable weights, before the host reads it.

    Args:
        path: the model file.
        pickles_allowed: whether the host loads pickles with PyTorch's weights-only loader.

    Raises:
        CheckpointError: the file is empty, truncated, of another format, or a pickle that cannot be read safely.
    """
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path.name} is empty: download it again.")
    suffix = path.suffix.lower()
    if suffix in SAFETENSORS_SUFFIXES:
        _check_safetensors(path)
    elif suffix in PICKLE_SUFFIXES and not pickles_allowed:
        raise CheckpointError(
            f"{path.name} is a pickle, which can run code when it is read, and this ComfyUI has no safe loader "
            "for it: use a .safetensors file or update PyTorch."
        )


def _check_safetensors(path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            empty = not list(file.keys())
    except SafetensorError as error:
        with path.open("rb") as stream:
            start = stream.read(32)
        really = next((name for magic, name in _MAGIC if start.startswith(magic)), None)
        if really:
            raise CheckpointError(f"{path.name} is {really}, not a safetensors file: get the right file.") from error
        raise CheckpointError(
            f"{path.name} is truncated or corrupt ({_first_clause(error)}): download it again."
        ) from error
    if empty:
        raise CheckpointError(f"{path.name} holds no tensors: download it again.")


def _first_clause(error: Exception) -> str:
    return re.split(r"[\n;]", str(error), maxsplit=1)[0].rstrip(".")


UNREAD_WEIGHTS = ("text_projection.weight", "logit_scale")
"""Endings of weights that ComfyUI's text encoders hold, often uninitialised, without computing with them."""


def first_not_finite(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first floating-point tensor that holds NaN or infinity, or None."""
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    for name, tensor in pairs:
        if name.endswith(UNREAD_WEIGHTS):
            continue
        if tensor.is_floating_point() and tensor.element_size() > 1 and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Every tensor in a nest of dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors_in(entry)
