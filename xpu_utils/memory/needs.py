"""What work took beside the weights where memory ran out in it, so that as much is kept free when it comes again."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable

REMEMBERED = 256
MARGIN = 1.15
"""Free memory is not in one piece: work fits where so many times its bytes are free."""


@dataclasses.dataclass(frozen=True)
class Need:
    """How work ended well that memory had run out in."""

    work_bytes: int
    """What it took beside the weights."""
    whole_bytes: int = 0
    """What it takes at the least with its parts together; 0 where that was not seen to be more than there is."""
    attention_bytes: int | None = None
    """The largest piece of attention; None where that was not made smaller."""
    alone: bool = False
    """Whether its parts went one by one."""

    def within(self, room_bytes: float) -> Need:
        """How to begin with so much room for weights and work: in parts, whose bits differ, only where it is short."""
        if room_bytes < MARGIN * self.whole_bytes:
            return self
        return Need(max(self.work_bytes, self.whole_bytes), self.whole_bytes)


class Needs:
    """Of the works that were met last."""

    def __init__(self) -> None:
        self._needs: collections.OrderedDict[Hashable, Need] = collections.OrderedDict()

    def of(self, work: Hashable) -> Need | None:
        """What is known of a work."""
        return self._needs.get(work)

    def learn(self, work: Hashable, need: Need) -> None:
        """Notes how it ended: the last way, and the most that it took in that."""
        before = self._needs.pop(work, None)
        if before is not None:
            work_bytes = max(before.work_bytes, need.work_bytes) if before.alone == need.alone else need.work_bytes
            whole_bytes = max(before.whole_bytes, need.whole_bytes)
            need = dataclasses.replace(need, work_bytes=work_bytes, whole_bytes=whole_bytes)
        self._needs[work] = need
        if len(self._needs) > REMEMBERED:
            self._needs.popitem(last=False)
