"""A model's weights cut into pieces: leaves used one after the other that are copied to the device together."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from ..weights.pinned import Packer, aligned
from .bounce import Bounce
from .leaves import Copy, Leaf


class Piece:
    """Leaves used one after the other, laid out one behind the other on the device."""

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        self.leaves = tuple(leaves)
        self.size_bytes = sum(leaf.size_bytes for leaf in self.leaves)

    def lock(self, packer: Packer, copy: Copy) -> None:
        """Moves its weights to page-locked memory; for how it is placed from now on. See `Leaf.lock`.

        Raises:
            PinnedMemoryError: there is no more; what was not moved stays where it is.
        """
        for leaf in self.leaves:
            leaf.lock(packer, copy)

    def _bases(self) -> Iterator[tuple[Leaf, int]]:
        base = 0
        for leaf in self.leaves:
            yield leaf, base
            base += leaf.size_bytes

    def placed(self, storage: torch.Tensor, base: int = 0) -> PlacedPiece:
        """The piece in device memory, from byte `base` of `storage` (uint8, 1-D) on; nothing is copied yet."""
        copies = _merged((source, start + offset) for leaf, start in self._bases() for source, offset in leaf.copies())
        return PlacedPiece(
            tuple((leaf, leaf.views(storage, base + start)) for leaf, start in self._bases()),
            tuple((storage[base + start : base + start + len(source)], source) for source, start in copies),
        )


@dataclasses.dataclass(frozen=True)
class PlacedPiece:
    """A piece with its room on the device."""

    _views: tuple[tuple[Leaf, Mapping[str, torch.Tensor]], ...]
    _copies: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        return tuple(leaf for leaf, _ in self._views)

    def copy(self, bounce: Bounce | None = None) -> None:
        """Queues the copies on the current stream, by way of page-locked buffers where there are some."""
        for target, source in self._copies:
            if bounce is None:
                target.copy_(source, non_blocking=True)
            else:
                bounce.copy(target, source)

    def swap(self) -> None:
        """Makes the leaves compute with this room."""
        for leaf, parameters in self._views:
            leaf.swap(parameters)

    def restore(self) -> None:
        """Gives the leaves their host parameters back."""
        for leaf, _ in self._views:
            leaf.restore()


def cut(uses: Sequence[Leaf], piece_bytes: int) -> tuple[list[Piece], list[int]]:
    """Cuts the leaves of one pass into pieces of at most `piece_bytes`, or of one leaf.

    Args:
        uses: the leaves as the pass used them. One used more than once is a piece of its own.

    Returns:
        The pieces, in order of first use, and which of them the pass used one after the other.
    """
    groups: list[list[Leaf]] = []
    order: list[int] = []
    repeated: dict[Leaf, int] = {}
    room_bytes = 0
    counts = collections.Counter(uses)
    for leaf in uses:
        if leaf in repeated:
            order.append(repeated[leaf])
            room_bytes = 0
            continue
        alone = counts[leaf] > 1
        if alone:
            repeated[leaf] = len(groups)
        if alone or leaf.size_bytes > room_bytes:
            order.append(len(groups))
            groups.append([])
            room_bytes = piece_bytes
        groups[-1].append(leaf)
        room_bytes = 0 if alone else room_bytes - leaf.size_bytes
    return [Piece(group) for group in groups], order


def _merged(copies: Iterable[tuple[torch.Tensor, int]]) -> list[tuple[torch.Tensor, int]]:
    """Joins copies whose bytes follow each other on both sides, the alignment's gaps included."""
    joined: list[tuple[torch.Tensor, int]] = []
    for source, offset in copies:
        if joined:
            last, start = joined[-1]
            step = aligned(len(last))
            same_slab = last.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
            if same_slab and last.storage_offset() + step == source.storage_offset() and start + step == offset:
                joined[-1] = (last.as_strided((step + len(source),), (1,)), start)
                continue
        joined.append((source, offset))
    return joined
