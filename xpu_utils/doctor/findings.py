"""What a check says: how bad, what, how it is known, and what to paste to mend it."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping

SYSTEMS = ("debian", "fedora", "arch", "nixos", "windows")
"""The systems that fixes are written for; Ubuntu counts as Debian."""

DOCUMENTATION = "docs/doctor.md"

REPOSITORY = "https://github.com/xpu-nodes/xpu-nodes"
"""As in pyproject.toml, which a pack in use need not have beside it."""


class State(enum.IntEnum):
    """How bad it is; the worst one of all findings is the exit code."""

    OK = 0
    NOTE = 1
    """Works, could be better."""
    WARNING = 2
    """Something will fail or be slow."""
    ERROR = 3
    """A device cannot be used."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing the doctor found."""

    code: str
    """Stable name, and the anchor in the documentation: "render-permission"."""
    state: State
    what: str
    evidence: str
    """The fact it was concluded from."""
    fixes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """By system; empty where there is nothing to mend."""

    @property
    def link(self) -> str:
        """Where it is explained, within the repository."""
        return f"{DOCUMENTATION}#{self.code}"

    @property
    def url(self) -> str:
        """The same for a browser."""
        return f"{REPOSITORY}/blob/main/{self.link}"

    def fix_for(self, system: str) -> str:
        """The fix for that system; for an unknown one, the Debian fix."""
        return self.fixes.get(system) or self.fixes.get("debian", "")


def everywhere(fix: str, **others: str) -> dict[str, str]:
    """One fix for all systems, except for those named."""
    return {system: others.get(system, fix) for system in SYSTEMS}


def exit_code(findings: Iterable[Finding]) -> int:
    """0 where nothing is worse than a note, 1 for warnings, 2 for errors."""
    worst = max((finding.state for finding in findings), default=State.OK)
    return max(0, worst - State.NOTE)
