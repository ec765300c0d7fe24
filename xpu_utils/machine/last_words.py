"""What runs where, written down before it runs: after a process that was killed or wedged, it is known the next time.

Each process has a file; it is gone after an orderly end, unless a device gave no answer.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from .cache import cache_directory, keep, recall


@dataclasses.dataclass(frozen=True)
class Work:
    """What a device was given to do."""

    device: str
    stage: str
    node_id: str
    since: float
    """Seconds since the epoch."""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"{self.stage} on {self.device} ({f'node {self.node_id}, ' if self.node_id else ''}{since})"


@dataclasses.dataclass(frozen=True)
class LastWords:
    """What a process was at."""

    pid: int
    process_began: float
    running: Work | None = None
    silent: tuple[Work, ...] = ()
    """What a device gave no answer to."""


class Book:
    """A process's file."""

    def __init__(self) -> None:
        self._words = LastWords(os.getpid(), began(os.getpid()))
        self.file = cache_directory() / f"running-{self._words.pid}-{time.time_ns()}.json"
        self._lock = threading.Lock()
        self._writable = True
        atexit.register(self._end)

    def note(self, device: str, stage: str, node_id: str) -> None:
        """Writes down what begins."""
        self._write(running=Work(device, stage, node_id, time.time()))

    def note_end(self) -> None:
        """Writes down that nothing runs."""
        self._write(running=None)

    def note_silent(self, device: str, stage: str, node_id: str) -> None:
        """Writes down that a device gave no answer."""
        self._write(silent=(*self._words.silent, Work(device, stage, node_id, time.time())))

    def _write(self, **changes: object) -> None:
        with self._lock:
            self._words = dataclasses.replace(self._words, **changes)  # type: ignore[arg-type]
            self._writable = self._writable and keep(self.file, self._words, what="what runs where")

    def _end(self) -> None:
        if not self._words.silent:
            with contextlib.suppress(OSError):  # it says less than it could, the next time
                self.file.unlink(missing_ok=True)


@functools.cache
def own_book() -> Book:
    """This process's."""
    return Book()


def begin() -> None:
    """At ComfyUI's start: what the ones before it have left stays until the next start."""
    try:
        for file in cache_directory().glob("left-*.json"):
            file.unlink(missing_ok=True)
        for file, _ in _past():
            file.replace(file.with_name(file.name.replace("running", "left", 1)))
    except OSError as error:
        logging.info("XPU Nodes: what earlier runs have left in %s stays there: %s", cache_directory(), error)


def left_behind() -> tuple[LastWords, ...]:
    """The last words of processes that had no orderly end while something ran, or whose device gave no answer."""
    try:
        left = [recall(file, LastWords) for file in sorted(cache_directory().glob("left-*.json"))]
        said = [*filter(None, left), *(words for _, words in _past())]
    except PermissionError:  # a service without a home has none of its own
        return ()
    return tuple(words for words in said if words.running or words.silent)


def _past() -> Iterator[tuple[Path, LastWords]]:
    """The files of processes that are no more, or have begun anew under the same number, as ComfyUI's restart does."""
    for file in sorted(cache_directory().glob("running-*.json")):
        words = recall(file, LastWords)
        if words is None or file == own_book().file:
            continue
        if words.pid == os.getpid() or began(words.pid) != words.process_began:
            yield file, words


def began(pid: int) -> float:
    """When a process began, in seconds since the epoch; 0 for one that there is not."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0
