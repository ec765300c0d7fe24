"""Files that are whole as soon as they are there."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path


def write_whole(file: Path, content: bytes, *, lasting: bool = True, private: bool = False) -> None:
    """Writes a file, and the folders that it lies in, so that nobody ever finds a part of it.

    Args:
        lasting: returns when the file outlasts a power cut.
        private: only this user may read it.

    Raises:
        OSError: it cannot be written.
    """
    new = [folder for folder in file.parents if not folder.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb", opener=_private if private else None) as stream:
            stream.write(content)
            if lasting:
                stream.flush()
                os.fsync(stream.fileno())
        part.replace(file)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    for folder in {file.parent, *(folder.parent for folder in new)} if lasting else ():
        _sync(folder)


def holds(file: Path, content: bytes) -> bool:
    """Whether a file is there, with just this content."""
    return file.is_file() and file.stat().st_size == len(content) and file.read_bytes() == content


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(folder: Path) -> None:
    """Has the names in a folder outlast a power cut, where a folder can be opened for it."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems
            raise
    finally:
        os.close(number)
