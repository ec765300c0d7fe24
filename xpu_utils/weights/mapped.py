"""Weights that are a file's own memory: reading one past the end of a file that was cut meanwhile ends the process."""

from __future__ import annotations

import dataclasses
import logging
import os
import weakref
from collections.abc import Iterable
from pathlib import Path

import torch

from .header import LoadError


@dataclasses.dataclass(frozen=True)
class _MappedFile:
    """A file as it was when it was mapped."""

    path: Path
    state: os.stat_result

    def now(self) -> os.stat_result | None:
        """As it is now; None where another file has its name or none has: the mapping then keeps the old one."""
        try:
            state = self.path.stat()
        except OSError:
            return None
        return state if (state.st_dev, state.st_ino) == (self.state.st_dev, self.state.st_ino) else None


_files: weakref.WeakKeyDictionary[torch.UntypedStorage, _MappedFile] = weakref.WeakKeyDictionary()
_warned: set[_MappedFile] = set()


def note_mapped(tensors: Iterable[torch.Tensor], path: Path) -> None:
    """Notes whose memory tensors are that were mapped just now."""
    file = _MappedFile(path, path.stat())
    for tensor in tensors:
        _files[tensor.untyped_storage()] = file


def check_mapped(tensors: Iterable[torch.Tensor]) -> None:
    """Looks at the files that tensors are mapped from, before they are read again.

    A file that is cut between this and the reading cannot be met: the system ends the process.

    Raises:
        LoadError: a file is shorter than it was.
    """
    if not _files:
        return
    storages = (tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu")
    for file in {_files[storage] for storage in storages if storage in _files}:
        now = file.now()
        if now is not None and now.st_size < file.state.st_size:
            raise LoadError(
                f"{file.path.name} was cut while its weights were in use: put the whole file back, restart ComfyUI, "
                "and replace files by renaming."
            )
        if now is not None and now.st_mtime_ns != file.state.st_mtime_ns and file not in _warned:
            _warned.add(file)
            logging.warning("XPU Nodes: %s was written to while its weights were in use.", file.path.name)
