"""Whether a device's allocations take as much of the host's memory as well: found by measuring, whatever the version.

Some drivers commit host memory for each allocation, which no process shows as its own (torch-xpu-ops #5428).
"""

from __future__ import annotations

import dataclasses

LEAST_CHANGE_BYTES = 256 << 20
"""A change of what is held on the device that stands out among what else happens to the host's memory."""
LEAST_SHARE = 0.8
"""Of such a change, how much of it the host's memory must change for no other reason."""
NEEDED = 2
"""Changes in a row that must look so: one may be another program's."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What is held on a device and of the host's memory at one moment."""

    held_bytes: int
    """By this process on the device."""
    available_bytes: int
    """Of the host's memory."""
    resident_bytes: int
    """Of this process in the host's memory."""


class ShadowCheck:
    """Compares looks at one device and the host."""

    def __init__(self) -> None:
        self._last: Look | None = None
        self._alike = 0

    def look(self, now: Look) -> bool:
        """Whether, by this look and those before it, the device's memory takes as much of the host's."""
        last, self._last = self._last, now
        if last is not None:
            change = now.held_bytes - last.held_bytes
            taken = last.available_bytes - now.available_bytes - (now.resident_bytes - last.resident_bytes)
            if abs(change) >= LEAST_CHANGE_BYTES:
                self._alike = min(NEEDED, self._alike + 1) if taken / change >= LEAST_SHARE else 0
        return self._alike >= NEEDED
