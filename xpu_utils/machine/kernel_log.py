"""What Linux' kernel log tells of a GPU that its driver has given up."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence

TIME_LIMIT_SECONDS = 5.0

COMMANDS = (("dmesg",), ("journalctl", "--dmesg", "--boot", "--output=cat", "--no-pager"))
"""On many systems only administrators may read the first, and members of the group adm the second."""

# drivers/gpu/drm/xe/xe_device.c, drivers/gpu/drm/i915/gt/intel_reset.c
_GIVEN_UP = re.compile(r"\b(i915|xe) .*(wedged|failed to reset chip|reset failed)", re.IGNORECASE)


def given_up(commands: Iterable[Sequence[str]] = COMMANDS) -> str:
    """The last such line; empty where there is none, or this user may not read the log."""
    for command in commands:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME_LIMIT_SECONDS, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        lines = filter(_GIVEN_UP.search, done.stdout.decode(errors="replace").splitlines())
        return next(reversed(list(lines)), "").strip()
    return ""
