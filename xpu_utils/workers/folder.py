"""A folder that one command at a time works in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


class FolderTaken(Exception):
    """Another command works in the folder; one sentence."""


@contextlib.contextmanager
def alone_in(folder: Path, lock: str) -> Iterator[None]:
    """Makes a folder, and keeps others out that name the same lock, until this process ends at the latest.

    Raises:
        FolderTaken: another command works in it.
        OSError: it cannot be written.
    """
    from filelock import FileLock, Timeout  # comes with Ray

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / lock, timeout=0):
            yield
    except Timeout:
        raise FolderTaken(
            f"Another command works in {folder}: wait for its end, or name another folder with --out."
        ) from None
