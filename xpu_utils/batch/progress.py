"""What a batch shows while it runs: a bar with rate and remaining time, and a line for each worker."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

from ..workers.cluster import Place

LINES = 16
"""Workers that have a line; a terminal is no longer."""


class Bars:
    """A `dispatch.Watcher` on the terminal."""

    def __init__(self, total: int, done: int) -> None:
        self._bar = tqdm(total=total, initial=done, unit="job", desc="batch", file=sys.stderr)
        self._lines: dict[Place, tqdm[None]] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in self._lines.values():
            line.close()
        self._bar.close()

    def say(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)

    def doing(self, place: Place, what: str) -> None:
        if place not in self._lines and len(self._lines) < LINES:
            # Only on a terminal, where a line can be written again.
            position = len(self._lines) + 1
            self._lines[place] = tqdm(
                bar_format="{desc}", position=position, disable=None, leave=False, file=sys.stderr
            )
        if place in self._lines:
            self._lines[place].set_description_str(f"{place}: {what or 'idle'}")

    def advance(self) -> None:
        self._bar.update()
