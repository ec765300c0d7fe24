"""What the first pass over a model teaches: the order in which its pieces are used, and the compute between them."""

from __future__ import annotations

import collections
import dataclasses
import re
import statistics
from collections.abc import Mapping

import torch


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What they taught, by the leaves' names: valid for every model of the same shape."""

    pieces: tuple[tuple[str, ...], ...]
    """In order of first use."""
    order: tuple[int, ...]
    """The pieces as a pass uses them, some perhaps more than once."""
    seconds: tuple[float, ...]


class PassTimer:
    """Measures the compute between the leaves of a pass, the copying left out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._timed: list[tuple[str, torch.Event, torch.Event]] = []
        self._begun: tuple[str, torch.Event] | None = None

    def ask(self, stream: torch.Stream) -> None:
        """The compute before the next leaf, or the pass, ends here."""
        if self._begun is not None:
            self._timed.append((*self._begun, self._record(stream)))
            self._begun = None

    def begin(self, name: str, stream: torch.Stream) -> None:
        """The compute of the next leaf begins here."""
        self._begun = (name, self._record(stream))

    def _record(self, stream: torch.Stream) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record(stream)
        return event

    def seconds(self) -> dict[str, float]:
        """By leaf, all its uses together; waits for the end of the pass."""
        seconds: dict[str, float] = collections.defaultdict(float)
        for name, begun, ended in self._timed:
            ended.synchronize()
            seconds[name] += begun.elapsed_time(ended) / 1000
        return seconds


def alike(seconds: Mapping[str, float], sizes_bytes: Mapping[str, int]) -> dict[str, float]:
    """A pass's times with those of leaves that differ in nothing but their position made one.

    A process's first pass also loads each kernel when it is first needed, and libraries with it: those are the times
    that stand out.

    Args:
        seconds, sizes_bytes: by the leaves' names.
    """
    groups: dict[tuple[str, int], list[float]] = collections.defaultdict(list)
    keys = {name: (re.sub(r"\d+", "", name), sizes_bytes[name]) for name in seconds}
    for name, taken in seconds.items():
        groups[keys[name]].append(taken)
    typical = {key: statistics.median_low(group) for key, group in groups.items()}
    return {name: typical[key] for name, key in keys.items()}
