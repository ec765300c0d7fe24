"""The header of a safetensors file: which tensors it holds, and where."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_HEADER_LIMIT_BYTES = 100 << 20

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
        LoadError: the file cannot be read, or is truncated, corrupt or of another format.
    """
    try:
        known = path.stat()
        return _entries(path, known.st_mtime_ns, known.st_size)
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(f"{path.name} could not be read ({error.strerror}): check the disk.") from error


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
    except (ValueError, AttributeError) as error:  # of JSON, of UTF-8, of pydantic; no object
        raise _damaged(path, "its header is damaged") from error
    begin = end = 8 + header_bytes
    found = []
    for name, field in sorted(fields.items(), key=lambda item: item[1].data_offsets):
        start, stop = (begin + offset for offset in field.data_offsets)
        dtype = _DTYPES.get(field.dtype)
        if stop > size_bytes:
            raise _damaged(path, f"it ends before {name}")
        if start != end or (dtype and stop - start != math.prod(field.shape) * dtype.itemsize):
            raise _damaged(path, f"{name} is not where its header says")
        found.append(Entry(name, dtype, field.shape, start, stop - start))
        end = stop
    if end != size_bytes:
        raise _damaged(path, "it holds more than its header says")
    return tuple(found)


def _damaged(path: Path, how: str) -> LoadError:
    return LoadError(f"{path.name} is truncated or corrupt ({how}): download it again.")
