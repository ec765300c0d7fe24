"""What work took beside the weights where memory ran out in it, so that as much is kept free when it comes again."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Hashable

REMEMBERED = 256
_MORE_ROOM = 1.25
"""What did not fit together is tried again where so many times the room is there."""


@dataclasses.dataclass(frozen=True)
class Need:
    """How work ended well that memory had run out in."""

    work_bytes: int
    """What it took beside the weights."""
    room_bytes: int
    """What there was for weights and work."""
    attention_bytes: int | None = None
    """The largest piece of attention; None where that was not made smaller."""
    alone: bool = False
    """Whether its parts went one by one, since they did not fit together."""


class Needs:
    """Of the works that were met last."""

    def __init__(self) -> None:
        self._needs: collections.OrderedDict[Hashable, Need] = collections.OrderedDict()

    def of(self, work: Hashable, room_bytes: Callable[[], float]) -> Need | None:
        """What is known of a work, with so much room for it; None where nothing is that helps there."""
        need = self._needs.get(work)
        outgrown = need is not None and need.alone and room_bytes() > _MORE_ROOM * need.room_bytes
        return None if outgrown else need

    def learn(self, work: Hashable, need: Need) -> None:
        """Notes how it ended: the last way, and the most that it took in that."""
        before = self._needs.pop(work, None)
        if before is not None and before.alone == need.alone:
            need = dataclasses.replace(need, work_bytes=max(before.work_bytes, need.work_bytes))
        self._needs[work] = need
        if len(self._needs) > REMEMBERED:
            self._needs.popitem(last=False)
