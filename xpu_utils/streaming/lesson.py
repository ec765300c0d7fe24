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
    taken for the device's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._passes: list[tuple[list[torch.Event], list[torch.Event]]] = []
        self.forget()

    @property
    def complete(self) -> bool:
        return len(self._passes) == _TIMED_PASSES

    def forget(self) -> None:
        """The pass under way was not like the others."""
        self._asked: list[torch.Event] = []
        self._begun: list[torch.Event] = []

    def ask(self, stream: torch.Stream) -> None:
        """The compute before the next piece ends here."""
        self._asked.append(self._record(stream))

    def begin(self, stream: torch.Stream) -> None:
        """The compute of the next piece begins here."""
        self._begun.append(self._record(stream))

    def end(self, stream: torch.Stream) -> None:
        """The pass ends here."""
        self.ask(stream)
        self._passes.append((self._begun, self._asked[1:]))
        self.forget()

    def _record(self, stream: torch.Stream) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record(stream)
        return event

    def seconds(self) -> list[float]:
        """One value for each piece: from its first use to the first use of the next."""
        self._passes[-1][1][-1].synchronize()
        measured = (
            [begun.elapsed_time(asked) / 1000 for begun, asked in zip(*timed, strict=True)] for timed in self._passes
        )
        return [min(times) for times in zip(*measured, strict=True)]
