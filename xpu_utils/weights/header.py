"""The header of a safetensors file: which tensors it holds, and where."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_HEADER_LIMIT_BYTES = 100 << 20
_MOST_SIDES = 64
"""Of a tensor that PyTorch computes with (`TensorIterator`)."""

# The format's names: https://github.com/huggingface/safetensors, `Dtype`.
_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}


class LoadError(OSError):
    """A file that could not be read to its end; the message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    name: str
    dtype: torch.dtype | None
    """None for what PyTorch has no dtype of."""
    stored_as: str
    """The format's name of the dtype."""
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class _Fields:
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@functools.cache
def _header_kind() -> Any:
    """What a header is validated by; made at first use, because older ComfyUIs start without pydantic."""
    import pydantic

    return pydantic.TypeAdapter(dict[str, _Fields])


def entries(path: Path) -> tuple[Entry, ...]:
    """The file's tensors in file order, checked against its size; a file is read once while it stays the same.

    Raises:
        LoadError: the file cannot be read, holds no tensors, or is truncated, corrupt or of another format.
    """
    known = regular(path)
    try:
        return _entries(path, known.st_mtime_ns, known.st_size)
    except LoadError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error


def regular(path: Path) -> os.stat_result:
    """What the system says of a file.

    Raises:
        LoadError: it cannot be asked, or is nothing that a model lies in: a folder, or what waits for a writer.
    """
    try:
        known = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(known.st_mode):
        what = "a folder" if stat.S_ISDIR(known.st_mode) else "a pipe or a device"
        raise LoadError(_plain(f"{path.name} is {what}: name a model file."))
    return known


def unreadable(path: Path, error: OSError) -> LoadError:
    """The sentence for what the system refused."""
    todo = "check its name" if isinstance(error, FileNotFoundError) else "check the disk"
    return LoadError(_plain(f"{path.name} could not be read ({error.strerror}): {todo}."))


@functools.lru_cache(maxsize=8)
def _entries(path: Path, changed_ns: int, size_bytes: int) -> tuple[Entry, ...]:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if not 2 <= header_bytes <= _HEADER_LIMIT_BYTES:
            raise _damaged(path, "it has no header")
        text = file.read(header_bytes)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        fields = _header_kind().validate_python(header)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:  # of JSON, UTF-8, pydantic; no object
        raise _damaged(path, "its header is damaged") from error
    begin = end = 8 + header_bytes
    found = []
    for name, field in sorted(fields.items(), key=lambda item: item[1].data_offsets):
        start, stop = (begin + offset for offset in field.data_offsets)
        dtype = _DTYPES.get(field.dtype)
        if stop > size_bytes:
            raise _damaged(path, f"it ends before {name[:80]}")
        if not re.fullmatch(r"\w{1,32}", field.dtype):
            raise _damaged(path, f"{name[:80]} has no dtype")
        if start != end or not _takes(field.shape, dtype, stop - start):
            raise _damaged(path, f"{name[:80]} is not where its header says")
        found.append(Entry(name, dtype, field.dtype, field.shape, start, stop - start))
        end = stop
    if end != size_bytes:
        raise _damaged(path, "it holds more than its header says")
    if not found:
        raise LoadError(_plain(f"{path.name} holds no tensors: download it again."))
    return tuple(found)


def _takes(shape: tuple[int, ...], dtype: torch.dtype | None, size_bytes: int) -> bool:
    """Whether a tensor can have the shape, and takes so many bytes; of an unknown dtype, at least a bit an element."""
    if len(shape) > _MOST_SIDES or min(shape, default=0) < 0:
        return False
    if math.prod(max(1, side) for side in shape) >= 1 << 60:  # as PyTorch counts, also where a side is 0
        return False
    elements = math.prod(shape)
    return elements <= 8 * size_bytes if dtype is None else elements * dtype.itemsize == size_bytes


def _damaged(path: Path, how: str) -> LoadError:
    return LoadError(_plain(f"{path.name} is truncated or corrupt ({how}): download it again."))


def _plain(sentence: str) -> str:
    """Without what steers a terminal: names in a damaged file are any bytes."""
    return "".join(letter if letter.isprintable() else "?" for letter in sentence)
