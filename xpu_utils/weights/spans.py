"""Spans of a file, and how several threads read them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Generic, TypeVar

import torch

from .header import LoadError

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True)
class Span:
    """Bytes of a file and the tensor that they fill."""

    start: int
    """Their first byte in the file."""
    dtype: torch.dtype
    """What they are; they are converted to the target's dtype."""
    target: torch.Tensor

    @property
    def size_bytes(self) -> int:
        return self.target.numel() * self.dtype.itemsize


class PerThread(Generic[Made]):
    """Something that each thread makes for itself when it first needs it."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._own = threading.local()
        self.made: list[Made] = []
        """Those of all threads."""

    def get(self) -> Made:
        """The calling thread's."""
        if not hasattr(self._own, "value"):
            self._own.value = self._make()
            self.made.append(self._own.value)
        value: Made = self._own.value
        return value


class SharedFile:
    """A file, opened once by each thread that reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = PerThread(lambda: FileIO(path))

    def read_into(self, room: torch.Tensor, start: int) -> None:
        """Fills host memory (uint8) with what the file holds from `start` on.

        Raises:
            LoadError: the file is shorter, or could not be read.
        """
        name = self._path.name
        try:
            file = self._opened.get()
            file.seek(start)
            view = memoryview(room.numpy())  # type: ignore[arg-type]
            while view:
                count = file.readinto(view)
                if not count:
                    raise LoadError(f"{name} was truncated while it was read: download it again.")
                view = view[count:]
        except LoadError:
            raise
        except OSError as error:
            raise LoadError(f"{name} could not be read at byte {start} ({error.strerror}): check the disk.") from error

    def close(self) -> None:
        for file in self._opened.made:
            file.close()
