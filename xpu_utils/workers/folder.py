"""A folder that one command at a time works in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

LOCK = "xpu-nodes.lock"
"""One name, as whatever works in a folder makes files of its own there."""


class FolderTaken(Exception):
    """Another command works in the folder; one sentence."""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Makes a folder, and keeps other commands out of it, until this process ends at the latest.

    Raises:
        FolderTaken: another command works in it.
        OSError: it cannot be written.
    """
    from filelock import FileLock, Timeout  # comes with Ray

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise FolderTaken(
            f"Another command works in {folder}: wait for its end, or name another folder with --out."
        ) from None
