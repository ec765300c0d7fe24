"""Computes with a model larger than the device: its weights pass through a ring of device memory just in time.

The first pass over the model learns the order in which its leaves are used and the compute between them; they are
copied from wherever they are (a mapped file, say), since locking memory takes longer than such a pass. From then on the
best part of the weights is resident (`plan.choose`), and the rest, page-locked by then, is copied ahead of its use on a
stream of its own (`ring.Ring`). Whatever a pass does otherwise than the first (a block skipped, a module used twice, a
pass cut short) gives the same result, only later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..weights.pinned import Packer, PinnedMemoryError, PinnedPool, copying
from .bounce import Bounce
from .leaves import Leaf
from .lesson import Lesson, PassTimer, alike
from .pieces import Piece, PlacedPiece, cut
from .plan import Choice, PieceCost, choose
from .ring import Ring
from .weak_hooks import weak_hook, weak_output_hook
from .window import plan_ring

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
            resident_bytes: at most so much of the device is taken beside such a ring.
            lesson: of an earlier stream over the same shape; saves the pass of learning.
        """
        self.device = device
        self.ring_bytes = ring_bytes
        self._root = root
        self._leaves = tuple(leaves)
        self._packer = Packer(pool, device)
        self._budget_bytes = resident_bytes
        self._storage: torch.Tensor | None = None
        self._ring: Ring | None = None
        """In that memory; None where it has to be planned first."""
        self._more = False
        """The budget has room for more since the ring was planned."""
        self._handles: list[Any] = []
        self._leaf_handles: list[Any] = []
        self._learning: list[Leaf] | None = None
        self._timer = PassTimer(device)
        """Of the pass that learns."""
        self._bounce: Bounce | None = None
        """While one learns, where there is memory to lock."""
        self._pieces: tuple[Piece, ...] = ()
        self._order: tuple[int, ...] = ()
        self._costs: tuple[PieceCost, ...] = ()
        self._resident: dict[int, PlacedPiece] = {}
        self._stray: Leaf | None = None
        self._passing = False
        self.refused = ""
        """Why a part of what streams is not page-locked; empty where all of it is."""
        if lesson is not None:
            self._recall(lesson)

    # What the owner asks and tells

    @property
    def total_bytes(self) -> int:
        """Bytes of all leaves."""
        return sum(leaf.size_bytes for leaf in self._leaves)

    @property
    def budget_bytes(self) -> int:
        """At most so much is taken beside the smallest ring."""
        return min(self._budget_bytes, self.total_bytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the leaves that are on the device to stay."""
        return sum(self._pieces[index].size_bytes for index in self._resident)

    @property
    def window_bytes(self) -> int:
        """Bytes of the ring as it is: a piece that is used again within so much is still there."""
        return self.ring_bytes if self._storage is None else len(self._storage)

    @property
    def held_bytes(self) -> int:
        """What of the budget is taken; all of it until that is known."""
        return self._taken_bytes if self.settled else self.budget_bytes

    @property
    def _taken_bytes(self) -> int:
        return self.resident_bytes + self.window_bytes - self.ring_bytes

    @property
    def settled(self) -> bool:
        """Whether all is learnt and the resident part was chosen accordingly."""
        return self._ring is not None and not self._more

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
        return Lesson(names, self._order, tuple(cost.seconds for cost in self._costs))

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
        if self._ring is not None:
            self._ring.stop()
        self._handles = [
            self._root.register_forward_pre_hook(weak_hook(self, WeightStream._begin)),
            self._root.register_forward_hook(weak_output_hook(self, WeightStream._end), always_call=True),
        ]
        self._hook_leaves()

    def remove(self) -> None:
        """Takes the hooks off and gives every module its host parameters back; the device keeps its memory.

        Does nothing where nothing is installed: since then somebody may have given the modules other parameters.
        """
        if not self._handles:
            return
        for handle in (*self._handles, *self._leaf_handles):
            handle.remove()
        self._handles, self._leaf_handles = [], []
        self.end_pass()
        for placed in self._resident.values():
            placed.restore()

    def end_pass(self) -> None:
        """Ends a pass that is cut short, its threads and what it has locked; asks nothing of the device.

        Only of an `Exception` does PyTorch tell hooks: what else may end a pass (an interrupt), its caller has to.
        """
        self._passing, self._learning = False, None
        self._restore_used()
        bounce, self._bounce = self._bounce, None
        if bounce is not None:
            bounce.close()

    def release(self, *, lost: bool = False) -> None:
        """`remove`, and gives all device memory back; what was learnt is kept.

        Args:
            lost: the device is gone, nothing may be asked of it.
        """
        self.remove()
        if self._storage is not None and not lost:
            self._copy_stream.synchronize()
        self._resident = {}
        self._storage = self._ring = None

    def set_budget(self, resident_bytes: int) -> int:
        """Changes how much may be resident: less takes effect at once, more with the next pass.

        Returns:
            Bytes of the device that are free again.
        """
        before_bytes = self._taken_bytes
        self._budget_bytes = max(0, resident_bytes)
        if before_bytes > self._budget_bytes:
            installed = bool(self._handles)
            self.remove()
            choice = self._chosen()
            self._settle(dataclasses.replace(choice, resident=choice.resident & self.resident))
            if installed:
                self.install()
        else:
            self._more = True  # a pass that is under way ends with the ring that it began with
        return before_bytes - self._taken_bytes

    # What is learnt

    def _recall(self, lesson: Lesson) -> None:
        by_name = {leaf.name: leaf for leaf in self._leaves}
        if any(name not in by_name for names in lesson.pieces for name in names):
            return
        self._pieces = tuple(Piece(by_name[name] for name in names) for names in lesson.pieces)
        self._order = lesson.order
        if all(piece.size_bytes <= self.ring_bytes for piece in self._pieces):
            self._learn_times(lesson.seconds)
        else:
            self._pieces = ()

    def _learn(self, uses: Sequence[Leaf]) -> None:
        """What a whole pass has taught."""
        self._timer.ask(self._compute_stream)
        sizes = {leaf.name: leaf.size_bytes for leaf in uses}
        seconds = alike(self._timer.seconds(), sizes)
        pieces, order = cut(uses, self.ring_bytes // PIECES_PER_RING)
        self._pieces, self._order = tuple(pieces), tuple(order)
        self._learn_times([sum(seconds[leaf.name] for leaf in piece.leaves) for piece in self._pieces])

    def _learn_times(self, seconds: Sequence[float]) -> None:
        sizes = (piece.size_bytes for piece in self._pieces)
        self._costs = tuple(map(PieceCost, sizes, seconds))

    def _chosen(self) -> Choice:
        return choose(self._costs, self._order, budget_bytes=self._budget_bytes, ring_bytes=self.ring_bytes)

    # Where things are

    def _settle(self, choice: Choice) -> None:
        """Makes pieces resident and plans a ring for the others."""
        self._restore_used()
        self._ring, self._more = None, False
        for index in self._resident.keys() - choice.resident:
            self._resident.pop(index).restore()
        self._lock(index for index in range(len(self._pieces)) if index not in choice.resident)
        storage = self._have(choice.ring_bytes)
        self._make_resident(sorted(choice.resident - self._resident.keys()))
        order = [index for index in self._order if index not in choice.resident]
        sizes = [piece.size_bytes for piece in self._pieces]
        plan = plan_ring(order, sizes, choice.ring_bytes)
        self._ring = Ring(storage, self._copy_stream, self._pieces, plan)
        again_bytes = plan.copied_bytes(sizes) - sum(sizes[index] for index in set(order))
        if again_bytes:
            logging.info(
                "XPU Nodes: a pass copies %.2f GB twice, of layers that it uses again later than %d MiB of others.",
                again_bytes / 1e9,
                choice.ring_bytes >> 20,
            )

    def _have(self, ring_bytes: int) -> torch.Tensor:
        """The ring's memory."""
        if self._storage is None or len(self._storage) != ring_bytes:
            self._storage = None
            self._storage = self._room(ring_bytes)
            self._copy_stream = torch.Stream(self.device)
            self._storage.record_stream(self._copy_stream)  # copies of the next pass may be queued when all is dropped
        return self._storage

    def _make_resident(self, indices: Sequence[int]) -> None:
        """Copies pieces to the device, to stay; what a file is mapped to is read by several threads, as in a pass."""
        with contextlib.ExitStack() as until_copied:
            bounce = self._new_bounce() if indices else None
            if bounce is not None:
                until_copied.callback(bounce.close)
            for index in indices:
                placed = self._pieces[index].placed(self._room(self._pieces[index].size_bytes))
                placed.copy(bounce)
                self._resident[index] = placed
                placed.swap()

    def _lock(self, indices: Iterable[int]) -> None:
        """Moves pieces to page-locked memory, as far as there is some."""
        torch.accelerator.synchronize(self.device)  # queued copies may read what is moved
        try:
            with copying() as copy:
                for index in indices:
                    self._pieces[index].lock(self._packer, copy)
        except PinnedMemoryError as error:
            told, self.refused = self.refused, str(error)  # whoever keeps the log must not keep the error's frames
            if not told:
                logging.warning(
                    "XPU Nodes: weights stream from memory that is not locked, which is slower. %s", self.refused
                )

    def _new_bounce(self) -> Bounce | None:
        """None where no memory can be locked: the device's driver has some of its own, slower."""
        with contextlib.suppress(PinnedMemoryError):
            return Bounce(self._packer.pool, self.device)
        return None

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
        for leaf in () if self._ring is None else self._ring.lasts:
            self._leaf_handles.append(leaf.module.register_forward_hook(weak_hook(self, WeightStream._leave, leaf)))

    def _restore_used(self) -> None:
        if self._ring is not None:
            self._ring.restore()
        self._restore_stray()

    def _restore_stray(self) -> None:
        if self._stray is not None:
            self._stray.restore()
            self._stray = None

    # One pass

    def _begin(self) -> None:
        self._compute_stream = torch.accelerator.current_stream(self.device)
        self._passing = True
        if not self._pieces:
            self._have(self.ring_bytes)
            self._learning = []
            self._timer = PassTimer(self.device)
            self._bounce = self._new_bounce()
            return
        if not self.settled:
            self._settle(self._chosen())
            self._hook_leaves()
        assert self._ring is not None
        self._ring.begin(self._compute_stream)

    def _enter(self, leaf: Leaf) -> None:
        """A leaf is about to compute; between passes, where others use it, the ring is left ready for the next."""
        self._restore_stray()
        if self._learning is not None:
            self._learning.append(leaf)
            self._timer.ask(self._compute_stream)
            self._use_stray(leaf)
            self._timer.begin(leaf.name, self._compute_stream)
        elif self._ring is None or not self._passing or not self._ring.enter(leaf):
            self._use_stray(leaf)

    def _leave(self, leaf: Leaf) -> None:
        """The last leaf of a piece has computed."""
        if self._ring is not None:
            self._ring.leave(leaf)

    def _use_stray(self, leaf: Leaf) -> None:
        """Copies a leaf for one use, in order with the compute."""
        storage = self._storage if self._learning is not None else None  # nothing else is in it then
        stray = Piece((leaf,)).placed(self._room(leaf.size_bytes) if storage is None else storage)
        stray.copy(self._bounce)
        self._stray = leaf
        stray.swap()

    def _end(self, output: object) -> None:
        """The pass is over; without output it failed."""
        learning = self._learning
        if self._ring is not None and output is not None:
            self._ring.end()
        self.end_pass()
        if learning is not None and output is not None:
            self._learn(learning)
