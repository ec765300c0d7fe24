"""The header of a safetensors file: which tensors it holds, and where."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

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
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    size_bytes: int


def entries(path: Path) -> list[Entry]:
    """The file's tensors in file order, checked against its size.

    Raises:
        LoadError: the file cannot be read, or is damaged, truncated or of another format.
    """
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= _HEADER_LIMIT_BYTES:
                raise LoadError(f"{path.name} is no safetensors file: get the right file.")
            header = json.loads(file.read(header_bytes))
            size_bytes = os.fstat(file.fileno()).st_size
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{path.name} has a damaged header ({error}): download it again.") from error
    except LoadError:
        raise
    except OSError as error:
        raise LoadError(f"{path.name} could not be read ({error.strerror}): check the disk.") from error
    header.pop("__metadata__", None)
    begin = 8 + header_bytes
    found = []
    for name, fields in header.items():
        start, stop = fields["data_offsets"]
        if begin + stop > size_bytes:
            raise LoadError(f"{path.name} is truncated: it ends before {name}, download it again.")
        if fields["dtype"] not in _DTYPES:
            raise LoadError(f"{path.name} holds {name} as {fields['dtype']}, which is not known: update XPU Nodes.")
        entry = Entry(name, _DTYPES[fields["dtype"]], tuple(fields["shape"]), begin + start, stop - start)
        found.append(entry)
    return sorted(found, key=lambda entry: entry.start)
