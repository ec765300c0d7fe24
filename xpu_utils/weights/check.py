"""Model files: what can be said of one before the host reads it, and of weights after."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch

from .header import LoadError, entries, regular, unreadable

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pt2", ".bin", ".pth", ".pkl")

INDEX_SUFFIX = ".index.json"
"""Of what lies beside the parts of a model that was split."""

_SAFETENSORS = "a safetensors file"
_GGUF = "a GGUF file"
_PICKLES = ("a PyTorch file", "a zip archive or a PyTorch pickle", "a Python pickle")

# First bytes -> what the file really is. Sources: the formats' specifications.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"(?s:.{5})\0\0\0\{", _SAFETENSORS),  # before others: what begins it is a number, and may be theirs
    (rb"\x89PNG", "a PNG picture"),
    (rb"\xff\xd8\xff", "a JPEG picture"),
    (rb"PK\x03\x04", _PICKLES[1]),
    (rb"\x80", _PICKLES[2]),
    (rb"GGUF", _GGUF),
    (rb"GIF8|RIFF(?s:.{4})WEBP|(?s:.{4})ftyp(avif|heic|mif1)", "a picture"),
    (rb"(?s:.{4})ftyp|\x1aE\xdf\xa3|RIFF(?s:.{4})AVI ", "a video"),
    (rb"RIFF(?s:.{4})WAVE|fLaC|OggS|ID3", "a sound"),
    (rb"\x08[\x01-\x20]\x12", "an ONNX model"),
    (rb"7z\xbc\xaf|Rar!|\x1f\x8b|\xfd7zXZ|BZh", "a packed archive"),
    (rb"%PDF", "a PDF document"),
    (rb"(?:\xef\xbb\xbf)?\s*<", "a web page, perhaps a failed download"),
    (rb'(?:\xef\xbb\xbf)?\s*[\[{]\s*["{}](?!\0)', "a text in JSON, perhaps a failed download"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (rb"(?s:.{5})\0\0\0", _SAFETENSORS),
    (rb"[\t\n\r -~]{1,32}\Z", "a text"),
)

# What PyTorch's unpickler was seen to raise on cut and altered files.
_UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
    struct.error,
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
    _check_there(path)
    suffix = path.suffix.lower()
    if suffix in SAFETENSORS_SUFFIXES:
        _check_safetensors(path)
    elif suffix in PICKLE_SUFFIXES:
        _check_pickle(path, allowed=pickles_allowed)


def check_header(path: Path) -> None:
    """Refuses a file that has no header to tell what it holds, whatever its name is.

    Raises:
        CheckpointError: the file is of another kind, whole or not, or a damaged safetensors file.
    """
    _check_there(path)
    if path.name.lower().endswith(INDEX_SUFFIX):
        raise CheckpointError(f"{path.name} lists the parts that a model was split into: name one of those.")
    kind = _kind(path)
    if kind in (*_PICKLES, _GGUF):
        raise CheckpointError(f"{path.name} is {kind}: what a file holds is told of safetensors files only.")
    _check_safetensors(path)


def _check_there(path: Path) -> None:
    try:
        size_bytes = regular(path).st_size
    except LoadError as error:
        raise CheckpointError(str(error)) from error
    if size_bytes == 0:
        raise CheckpointError(f"{path.name} is empty: download it again.")


def _check_safetensors(path: Path) -> None:
    try:
        entries(path)
    except LoadError as error:
        _check_kind(path, _SAFETENSORS)
        if _kind(path) is None:
            raise CheckpointError(f"{path.name} is no safetensors file: get the right file.") from error
        raise CheckpointError(str(error)) from error


def _check_pickle(path: Path, *, allowed: bool) -> None:
    """Reads a pickle as the host is going to, weights only; an archive's tensors are mapped and not read."""
    _check_kind(path, *_PICKLES)
    if not allowed:
        raise CheckpointError(
            f"{path.name} is a pickle, which can run code when it is read, and this ComfyUI has no safe loader "
            "for it: use a .safetensors file or update PyTorch."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if not re.search("Unsupported|Trying to", str(error)):
            raise _unreadable(path, error) from error
        raise CheckpointError(
            f"{path.name} is a pickle that holds more than weights and was not read: use a .safetensors file."
        ) from error
    except _UNREADABLE as error:
        if "TorchScript" in str(error):
            what = "is a TorchScript program, which ComfyUI does not load"
            raise CheckpointError(f"{path.name} {what}: get the model's weights as a .safetensors file.") from error
        raise _unreadable(path, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}, not weights by name: get the right file.")
    if next(tensors_in(content), None) is None:
        raise CheckpointError(f"{path.name} holds no tensors: download it again.")


def _check_kind(path: Path, *expected: str) -> None:
    """Refuses a file whose first bytes tell that it is of another kind than its name says."""
    really = _kind(path)
    if really is not None and really not in expected:
        raise CheckpointError(f"{path.name} is {really}, not {expected[0]}: get the right file.")


def _kind(path: Path) -> str | None:
    """What a file's first bytes tell that it is."""
    try:
        with path.open("rb") as stream:
            start = stream.read(32)
    except OSError as error:
        raise CheckpointError(str(unreadable(path, error))) from error
    return next((kind for pattern, kind in _KINDS if re.match(pattern, start)), None)


_PART = re.compile(r"-(\d{5})-of-(\d{5})\b")


def part_of_several(path: Path) -> str:
    """What to do with a file whose name says that it is one part of a model; empty for a whole one."""
    match = _PART.search(path.name)
    if match is None or int(match[2]) == 1:
        return ""
    what = f"{path.name} is part {int(match[1])} of the {int(match[2])} that a model was split into"
    return f"{what}, and ComfyUI loads one file: get the model in one file, or join its parts."


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path.name} is truncated or corrupt ({_first_clause(error)}): download it again.")


def _first_clause(error: Exception) -> str:
    return re.split(r"[\n;]|\. ", str(error) or type(error).__name__, maxsplit=1)[0].rstrip(".")


UNREAD_WEIGHTS = ("text_projection.weight", "logit_scale")
"""Endings of weights that ComfyUI's text encoders hold, often uninitialised, without computing with them."""


def first_not_finite(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first floating-point tensor that holds NaN or infinity, or None."""
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    for name, tensor in pairs:
        if name.endswith(UNREAD_WEIGHTS) or tensor.is_meta:  # as GGUF's pack shows its quantised weights
            continue
        if tensor.is_floating_point() and tensor.element_size() > 1 and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def sizes_in(value: object) -> Iterator[tuple[int, ...]]:
    """The shape of every tensor in a nest of dicts, lists and tuples, and the length of every list, as of tokens."""
    if isinstance(value, torch.Tensor):
        yield tuple(value.shape)
    elif isinstance(value, list):
        yield (len(value),)
    if isinstance(value, Mapping):
        value = (*value.values(),)
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from sizes_in(entry)


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
