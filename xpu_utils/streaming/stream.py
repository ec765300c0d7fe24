"""Computes with a model larger than the device: its weights pass through a ring of device memory just in time.

The first pass over the model learns the order in which its leaves are used and the compute between them; they are
copied from wherever they are (a mapped file, say), since locking memory takes longer than such a pass. From then on the
best part of the weights is resident (`plan.choose_resident`), and the rest, page-locked by then, is copied ahead of its
use on a stream of its own. Events order copies and compute in both directions, so the host never waits. Whatever a pass
does otherwise than the one before (a block skipped, a module used twice, a pass cut short) gives the same result, only
later.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..weights.pinned import Packer, PinnedMemoryError, PinnedPool, copying
from .bounce import Bounce
from .leaves import Leaf
from .lesson import Lesson, PassTimer, alike
from .pieces import Piece, PlacedPiece, cut
from .plan import PieceCost, RingPlan, choose_resident, plan_ring
from .weak_hooks import weak_hook, weak_output_hook

PIECES_PER_RING = 8
"""Small pieces give their room back early; each costs the host some 30 microseconds a pass."""


class WeightStream:
    """Feeds the leaves of a module tree their weights while it computes on a device.

    `install` before computing, `remove` before anyone else looks at the parameters, `release` to give the device's
    memory back. Not for several threads at once.
    """

    def __init__(
        self,
        root: nn.Module,
        leaves: Sequence[Leaf],
        device: torch.device,
        *,
        pool: PinnedPool,
        ring_bytes: int,
        resident_bytes: int,
        lesson: Lesson | None = None,
    ) -> None:
        """
        Args:
            root: one call of it is one pass.
            leaves: those under it whose weights are on the host; all other weights are on the device already.
            device: an accelerator that has memory of its own.
            pool: of page-locked memory, for what is streamed. What it refuses is streamed from where it is, slower.
            ring_bytes: see `plan.ring_size`.
            resident_bytes: at most so much of the leaves stays on the device.
            lesson: of an earlier stream over the same shape; saves the pass of learning.
        """
        self.device = device
        self.ring_bytes = ring_bytes
        self._root = root
        self._leaves = tuple(leaves)
        self._packer = Packer(pool, device)
        self._budget_bytes = resident_bytes
        self._ring: torch.Tensor | None = None
        self._handles: list[Any] = []
        self._leaf_handles: list[Any] = []
        self._learning: dict[Leaf, int] | None = None
        self._timer = PassTimer(device)
        """Of the pass that learns."""
        self._bounce: Bounce | None = None
        """While one learns, where there is memory to lock."""
        self._pieces: tuple[Piece, ...] = ()
        self._calls: tuple[int, ...] = ()
        self._costs: tuple[PieceCost, ...] = ()
        self._resident: dict[int, PlacedPiece] = {}
        self._stray: Leaf | None = None
        self.refused = ""
        """Why a part of what streams is not page-locked; empty where all of it is."""
        self._clear_plan()
        if lesson is not None:
            self._recall(lesson)

    def _clear_plan(self) -> None:
        self._plan: RingPlan | None = None
        self._streamed: tuple[PlacedPiece, ...] = ()
        self._position_of: dict[Leaf, int] = {}
        self._ready: list[torch.Event] = []
        self._released: list[torch.Event] = []
        self._current: int | None = None
        self._expected = 0
        self._primed = False

    # What the owner asks and tells

    @property
    def total_bytes(self) -> int:
        """Bytes of all leaves."""
        return sum(leaf.size_bytes for leaf in self._leaves)

    @property
    def budget_bytes(self) -> int:
        """At most so much of the leaves is resident."""
        return min(self._budget_bytes, self.total_bytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the leaves that are on the device to stay."""
        return sum(self._pieces[index].size_bytes for index in self._resident)

    @property
    def settled(self) -> bool:
        """Whether all is learnt and the resident part was chosen accordingly."""
        return bool(self._costs) and self._plan is not None

    @property
    def resident(self) -> frozenset[int]:
        """The pieces that are on the device to stay, by their position in the order of use."""
        return frozenset(self._resident)

    @property
    def lesson(self) -> Lesson | None:
        """For the next stream over a model of this shape; None before the second pass."""
        if not self._costs:
            return None
        names = tuple(tuple(leaf.name for leaf in piece.leaves) for piece in self._pieces)
        return Lesson(names, self._calls, tuple(cost.seconds for cost in self._costs))

    def install(self, *, refresh: Iterable[str] = ()) -> None:
        """Hooks the module tree up: from now on computing with it streams.

        Args:
            refresh: names of leaves whose weights may have changed in place since `remove`.
        """
        if self._handles:
            return
        changed = frozenset(refresh)
        for placed in self._resident.values():
            if any(leaf.name in changed for leaf in placed.leaves):
                placed.copy()
            placed.swap()
        self._handles = [
            self._root.register_forward_pre_hook(weak_hook(self, WeightStream._begin)),
            self._root.register_forward_hook(weak_output_hook(self, WeightStream._end), always_call=True),
        ]
        self._hook_leaves()
        self._primed = False

    def remove(self) -> None:
        """Takes the hooks off and gives every module its host parameters back; the device keeps its memory.

        Does nothing where nothing is installed: since then somebody may have given the modules other parameters.
        """
        if not self._handles:
            return
        for handle in (*self._handles, *self._leaf_handles):
            handle.remove()
        self._handles, self._leaf_handles = [], []
        self._restore_used()
        for placed in self._resident.values():
            placed.restore()

    def release(self, *, lost: bool = False) -> None:
        """`remove`, and gives all device memory back; what was learnt is kept.

        Args:
            lost: the device is gone, nothing may be asked of it.
        """
        self.remove()
        if self._ring is not None and not lost:
            self._copy_stream.synchronize()
        self._clear_plan()
        self._resident = {}
        self._ring = None

    def set_budget(self, resident_bytes: int) -> int:
        """Changes how much may be resident: less takes effect at once, more with the next pass.

        Returns:
            Bytes of the device that are free again.
        """
        self._budget_bytes = max(0, resident_bytes)
        before_bytes = self.resident_bytes
        if before_bytes > self._budget_bytes:
            installed = bool(self._handles)
            self.remove()
            self._settle(self._chosen() & self.resident)
            if installed:
                self.install()
        else:
            self._plan = None
        return before_bytes - self.resident_bytes

    # What is learnt

    def _recall(self, lesson: Lesson) -> None:
        by_name = {leaf.name: leaf for leaf in self._leaves}
        if any(name not in by_name for names in lesson.pieces for name in names):
            return
        self._pieces = tuple(Piece(by_name[name] for name in names) for names in lesson.pieces)
        self._calls = lesson.calls
        if all(piece.size_bytes <= self.ring_bytes for piece in self._pieces):
            self._learn_times(lesson.seconds)
        else:
            self._pieces = ()

    def _learn(self, learning: Mapping[Leaf, int]) -> None:
        """What a whole pass has taught."""
        self._timer.ask(self._compute_stream)
        sizes = {leaf.name: leaf.size_bytes for leaf in learning}
        seconds = alike(self._timer.seconds(), sizes)
        self._pieces = tuple(cut(learning, self.ring_bytes // PIECES_PER_RING))
        self._calls = tuple(max(learning[leaf] for leaf in piece.leaves) for piece in self._pieces)
        self._learn_times([sum(seconds[leaf.name] for leaf in piece.leaves) for piece in self._pieces])

    def _learn_times(self, seconds: Sequence[float]) -> None:
        sizes = (piece.size_bytes for piece in self._pieces)
        self._costs = tuple(map(PieceCost, sizes, seconds))

    def _indices(self) -> list[int]:
        """The streamed pieces."""
        return [index for index in range(len(self._pieces)) if index not in self._resident]

    def _chosen(self) -> frozenset[int]:
        """The pieces that should be resident."""
        always: set[int] = set()
        spare_bytes = self._budget_bytes
        for index, calls in enumerate(self._calls):
            if calls > 1 and self._pieces[index].size_bytes <= spare_bytes:
                always.add(index)
                spare_bytes -= self._pieces[index].size_bytes
        resident_bytes, ring_bytes = self._budget_bytes, self.ring_bytes
        return choose_resident(self._costs, resident_bytes=resident_bytes, ring_bytes=ring_bytes, always=always)

    # Where things are

    def _settle(self, chosen: frozenset[int]) -> None:
        """Makes these pieces resident and plans the ring for the others."""
        self._restore_used()
        self._clear_plan()
        for index in self._resident.keys() - chosen:
            self._resident.pop(index).restore()
        self._lock(index for index in range(len(self._pieces)) if index not in chosen)
        for index in sorted(chosen - self._resident.keys()):
            placed = self._pieces[index].placed(self._room(self._pieces[index].size_bytes))
            self._resident[index] = placed
            placed.copy()
            placed.swap()
        indices = self._indices()
        self._plan = plan_ring([self._pieces[index].size_bytes for index in indices], self.ring_bytes)
        assert self._ring is not None
        placing = zip(indices, self._plan.offsets, strict=True)
        self._streamed = tuple(self._pieces[index].placed(self._ring, offset) for index, offset in placing)
        self._position_of = {leaf: position for position, placed in enumerate(self._streamed) for leaf in placed.leaves}
        self._ready = [torch.Event(self.device) for _ in indices]
        self._released = [torch.Event(self.device) for _ in indices]

    def _lock(self, indices: Iterable[int]) -> None:
        """Moves pieces to page-locked memory, as far as there is some."""
        torch.accelerator.synchronize(self.device)  # queued copies may read what is moved
        try:
            with copying() as copy:
                for index in indices:
                    self._pieces[index].lock(self._packer, copy)
        except PinnedMemoryError as error:
            if not self.refused:
                logging.warning("XPU Nodes: weights stream from memory that is not locked, which is slower. %s", error)
            self.refused = str(error)

    def _room(self, size_bytes: int) -> torch.Tensor:
        with torch.inference_mode(False):  # what is made in inference mode may not be written to outside of it
            return torch.empty(size_bytes, dtype=torch.uint8, device=self.device)

    def _hook_leaves(self) -> None:
        """Watches the leaves that are not resident, and the end of each streamed piece."""
        for handle in self._leaf_handles:
            handle.remove()
        resident = {leaf for placed in self._resident.values() for leaf in placed.leaves}
        self._leaf_handles = [
            leaf.module.register_forward_pre_hook(weak_hook(self, WeightStream._enter, leaf))
            for leaf in self._leaves
            if leaf not in resident
        ]
        for position, placed in enumerate(self._streamed):
            last = placed.leaves[-1].module
            self._leaf_handles.append(last.register_forward_hook(weak_hook(self, WeightStream._leave, position)))

    def _restore_used(self) -> None:
        if self._current is not None:
            self._streamed[self._current].restore()
            self._current = None
        if self._stray is not None:
            self._stray.restore()
            self._stray = None

    # One pass

    def _begin(self) -> None:
        self._compute_stream = torch.accelerator.current_stream(self.device)
        if self._ring is None:
            self._ring = self._room(self.ring_bytes)
            self._copy_stream = torch.Stream(self.device)
            self._ring.record_stream(self._copy_stream)  # copies of the next pass may be queued when all is dropped
        if not self._pieces:
            self._learning = {}
            self._timer = PassTimer(self.device)
            with contextlib.suppress(PinnedMemoryError):  # the device's driver has some of its own, slower
                self._bounce = Bounce(self._packer.pool, self.device)
            return
        if self._plan is None:
            self._settle(self._chosen())
            self._hook_leaves()
        if not self._primed or self._expected != 0:
            self._prime()

    def _prime(self) -> None:
        """Starts the ring over, once everything that uses it has ended."""
        assert self._plan is not None
        self._restore_used()
        self._expected = 0
        self._primed = True
        idle = torch.Event(self.device)
        idle.record(self._compute_stream)
        self._issue(idle, range(self._plan.primed))

    def _issue(self, after: torch.Event, positions: Iterable[int]) -> None:
        """Queues copies into the ring, behind an event of the compute stream."""
        self._copy_stream.wait_event(after)
        with self._copy_stream:
            for position in positions:
                self._streamed[position].copy()
                self._ready[position].record(self._copy_stream)

    def _enter(self, leaf: Leaf) -> None:
        """A leaf is about to compute."""
        position = self._position_of.get(leaf)
        if position is not None and position == self._current:
            return
        if self._current is not None:
            self._leave(self._current)
        self._restore_used()
        if self._learning is not None:
            self._learning[leaf] = self._learning.get(leaf, 0) + 1
            self._timer.ask(self._compute_stream)
            self._use_stray(leaf)
            self._timer.begin(leaf.name, self._compute_stream)
            return
        if position is None or position < self._expected or not self._primed:
            self._use_stray(leaf)
            return
        while self._expected < position:
            self._give_up(self._expected)
        self._compute_stream.wait_event(self._ready[position])
        self._streamed[position].swap()
        self._current = position

    def _leave(self, position: int) -> None:
        """The last leaf of a piece has computed."""
        if position == self._current:
            self._streamed[position].restore()
            self._current = None
            self._give_up(position)

    def _give_up(self, position: int) -> None:
        """The piece is not needed any more in this pass: its room goes to those that wait for it."""
        assert self._plan is not None
        self._expected = position + 1
        if self._plan.unlocks[position]:
            self._released[position].record(self._compute_stream)
            self._issue(self._released[position], self._plan.unlocks[position])

    def _use_stray(self, leaf: Leaf) -> None:
        """Copies a leaf for one use, in order with the compute."""
        ring = self._ring if self._learning is not None else None  # nothing else is in it then
        stray = Piece((leaf,)).placed(self._room(leaf.size_bytes) if ring is None else ring)
        stray.copy(self._bounce)
        stray.swap()
        self._stray = leaf

    def _end(self, output: object) -> None:
        """The pass is over; without output it failed."""
        if self._current is not None:
            self._leave(self._current)
        self._restore_used()
        if self._bounce is not None:
            self._bounce.close()
            self._bounce = None
        if self._learning is not None:
            learning, self._learning = self._learning, None
            if output is not None:
                self._learn(learning)
        elif output is not None and self._expected == len(self._streamed):
            self._expected = 0
