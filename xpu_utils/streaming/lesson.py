"""What the first passes over a model teach: the order in which its pieces are used, and the compute between them."""

from __future__ import annotations

import dataclasses

import torch

_TIMED_PASSES = 2


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What they taught, by the leaves' names: valid for every model of the same shape."""

    pieces: tuple[tuple[str, ...], ...]
    calls: tuple[int, ...]
    """How often each piece was used in a pass."""
    seconds: tuple[float, ...]


class PassTimer:
    """Measures the compute between the pieces of a pass, the waiting for copies left out.

    The smaller time of two passes counts: the host has no lead yet when the first begins, and its own time would be
    taken for the device's. A pass may leave pieces out.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._passes: list[dict[int, tuple[torch.Event, torch.Event]]] = []
        self.forget()

    @property
    def complete(self) -> bool:
        return len(self._passes) == _TIMED_PASSES

    def forget(self) -> None:
        """The pass under way failed."""
        self._timed: dict[int, tuple[torch.Event, torch.Event]] = {}
        self._begun: tuple[int, torch.Event] | None = None

    def ask(self, stream: torch.Stream) -> None:
        """The compute before the next piece ends here."""
        if self._begun is not None:
            index, begun = self._begun
            self._timed[index] = (begun, self._record(stream))

    def begin(self, index: int, stream: torch.Stream) -> None:
        """The compute of the next piece begins here."""
        self._begun = (index, self._record(stream))

    def end(self, stream: torch.Stream) -> None:
        """The pass ends here."""
        self.ask(stream)
        if self._timed:
            self._passes.append(self._timed)
        self.forget()

    def _record(self, stream: torch.Stream) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record(stream)
        return event

    def seconds(self) -> dict[int, float]:
        """By piece, from its first use to the first use of the next; only those that were used."""
        seconds: dict[int, float] = {}
        for timed in self._passes:
            for index, (begun, asked) in timed.items():
                asked.synchronize()
                taken = begun.elapsed_time(asked) / 1000
                seconds[index] = min(taken, seconds.get(index, taken))
        return seconds
