"""Temporary folders that a process may leave behind where it is killed: the next one of its kind removes them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import psutil


def prefix(kind: str) -> str:
    """How the names of this process's folders of a kind begin."""
    return f"xpu-nodes-{kind}-{_namespace()}-{os.getpid()}-"


def remove_left_behind(kind: str) -> None:
    """Removes those of processes that are gone; other containers that share the folder know theirs."""
    pattern = re.compile(rf"xpu-nodes-{kind}-{_namespace()}-(\d+)-.*")
    for folder in Path(tempfile.gettempdir()).glob(f"xpu-nodes-{kind}-*"):
        if (match := pattern.fullmatch(folder.name)) and not psutil.pid_exists(int(match[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _namespace() -> str:
    """The number of what process ids are unique in, of Linux; 0 elsewhere."""
    try:
        return re.sub(r"\D", "", os.readlink("/proc/self/ns/pid")) or "0"
    except OSError:
        return "0"
