"""A ring of device memory that the weights of a pass go through, copied ahead of their use."""

from __future__ import annotations

import bisect
import collections
from collections.abc import Iterable, Iterator, Sequence

import torch

from .leaves import Leaf
from .pieces import Piece
from .window import RingPlan


class Ring:
    """Copies pieces in the order in which a pass uses them, on a stream of its own; events order copies and compute."""

    def __init__(
        self, storage: torch.Tensor, copy_stream: torch.Stream, pieces: Sequence[Piece], plan: RingPlan
    ) -> None:
        """
        Args:
            storage: on the device; uint8, 1-D.
            pieces: those that the plan speaks of.
        """
        self._copy_stream = copy_stream
        self._plan = plan
        self._stays = tuple(pieces[stay.piece].placed(storage, stay.offset) for stay in plan.stays)
        self._uses: dict[Leaf, list[int]] = collections.defaultdict(list)
        for use, index in enumerate(plan.stay_of):
            for leaf in self._stays[index].leaves:
                self._uses[leaf].append(use)
        self._asked = [-1] * len(plan.stays)
        """For each stay, the use of the same pass that unlocks it; -1 where that was before the pass."""
        for use, unlocked in enumerate(plan.unlocks):
            for index in unlocked:
                if plan.stays[index].first > use:
                    self._asked[index] = use
        self._ready = [torch.Event(storage.device) for _ in self._stays]
        self._released = [torch.Event(storage.device) for _ in plan.unlocks]
        self._current: int | None = None
        """The use that is being made of a piece."""
        self._expected = 0
        self._primed = False

    @property
    def lasts(self) -> Iterator[Leaf]:
        """The last leaf of each piece: `leave` wants to know when it has computed."""
        return iter({placed.leaves[-1]: None for placed in self._stays})

    def begin(self, compute_stream: torch.Stream) -> None:
        """A pass begins, whose computing is queued on this stream."""
        self._compute_stream = compute_stream
        if self._primed and self._expected == 0:
            return
        # Starts over, once everything that uses it has ended.
        self.restore()
        self._expected = 0
        self._primed = False  # until all is queued
        idle = torch.Event(compute_stream.device)
        idle.record(compute_stream)
        self._issue(idle, range(self._plan.primed))
        self._primed = True

    def stop(self) -> None:
        """Weights may have changed: the next pass starts over."""
        self._primed = False

    def enter(self, leaf: Leaf) -> bool:
        """A leaf is about to compute; whether it does so with what is in the ring."""
        if self.holds(leaf):
            return True
        self.leave()
        uses = self._uses.get(leaf, [])
        coming = bisect.bisect_left(uses, self._expected)
        if coming == len(uses) or not self._primed:
            return False
        use = uses[coming]
        index = self._plan.stay_of[use]
        if coming and self._asked[index] >= self._expected:
            return False  # used once more, most likely: to jump to a use so far ahead would give all between up
        while self._expected < use:
            self._give_up(self._expected)
        self._compute_stream.wait_event(self._ready[index])
        self._current = use
        self._stays[index].swap()
        return True

    def holds(self, leaf: Leaf) -> bool:
        """Whether a leaf computes with what is in the ring right now."""
        return self._current is not None and leaf in self._stays[self._plan.stay_of[self._current]].leaves

    def leave(self, leaf: Leaf | None = None) -> None:
        """A leaf has computed: if it is the last of its piece, that was used. None: the piece was in any case."""
        if self._current is None:
            return
        if leaf is None or leaf is self._stays[self._plan.stay_of[self._current]].leaves[-1]:
            use = self._current
            self.restore()
            self._give_up(use)

    def end(self) -> None:
        """The pass has come to its end."""
        self.leave()
        if self._expected == len(self._plan.stay_of):
            self._expected = 0

    def restore(self) -> None:
        """Gives the leaves in use their host parameters back."""
        if self._current is not None:
            self._stays[self._plan.stay_of[self._current]].restore()
            self._current = None

    def _give_up(self, use: int) -> None:
        """This use is over or will not come: rooms that are not needed any more go to those that wait for them."""
        self._expected = use + 1
        if self._plan.unlocks[use]:
            self._released[use].record(self._compute_stream)
            self._issue(self._released[use], self._plan.unlocks[use])

    def _issue(self, after: torch.Event, stays: Iterable[int]) -> None:
        """Queues copies, behind an event of the compute stream."""
        self._copy_stream.wait_event(after)
        with self._copy_stream:
            for index in stays:
                self._stays[index].copy()
                self._ready[index].record(self._copy_stream)
