"""Which of several devices computes which batches of a step: a step ends when the last of them is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

LESSONS = 2
"""Model calls of a run that a device's time is learnt from, the shorter one: kernels are compiled in the first."""


class Speeds:
    """What each device takes for an element of the latent, learnt in its first model calls and kept from then on."""

    def __init__(self) -> None:
        self._seconds: dict[torch.device, list[float]] = {}

    def learn(self, device: torch.device, elements: int, seconds: float) -> None:
        """Notes what a device took for its batches of one model call."""
        lessons = self._seconds.setdefault(device, [])
        if len(lessons) < LESSONS:
            lessons.append(seconds / elements)

    def known(self, device: torch.device) -> float | None:
        """Seconds for an element; None before it was learnt."""
        lessons = self._seconds.get(device, ())
        return min(lessons) if len(lessons) == LESSONS else None

    def assumed(self, devices: Sequence[torch.device]) -> dict[torch.device, float]:
        """The same of several: one that is not known yet is taken to be as fast as the fastest."""
        known = {device: self.known(device) for device in devices}
        fastest = min((seconds for seconds in known.values() if seconds is not None), default=1.0)
        return {device: fastest if seconds is None else seconds for device, seconds in known.items()}


def deal(elements: Sequence[int], seconds: Mapping[torch.device, float]) -> list[torch.device]:
    """Gives each batch, the largest first, to the device that would be done with it first.

    Args:
        elements: of each batch.
        seconds: for an element, by device; of those that are done at the same time, the idle and then the first one
            gets it.

    Returns:
        The device of each batch.
    """
    busy, owners = dict.fromkeys(seconds, 0.0), [next(iter(seconds))] * len(elements)
    for index in sorted(range(len(elements)), key=lambda index: -elements[index]):
        ends = {device: busy[device] + seconds[device] * elements[index] for device in busy}
        owners[index] = min(ends, key=lambda device: (ends[device], busy[device]))
        busy[owners[index]] = ends[owners[index]]
    return owners
