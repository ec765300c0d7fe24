"""A touch: one place in our code that uses a name of the host, calls it or stands in for it."""

from __future__ import annotations

import dataclasses
import enum
import re

from .signatures import NOTHING_GIVEN, NOTHING_TAKEN, Call, Signature

OVERRIDDEN = "only called where the host has it"
"""What guards `super().f()` in an override of f, as to whether there is an f."""


class Kind(enum.Enum):
    USE = "uses"
    SET = "sets"
    CALL = "calls"
    STAND_IN = "stands in for"
    OVERRIDE = "overrides"
    """Like a stand-in, but the host need not have such a method."""
    WRAPPER = "is called by"
    """A wrapper or callback: called by the host for the kind that the path names."""


@dataclasses.dataclass(frozen=True)
class Touch:
    """Paths are written as code: "comfy.sd.VAE().decode", "comfy.model_management.current_loaded_models[]"."""

    kind: Kind
    path: str
    file: str
    line: int
    asked_for: frozenset[str] = frozenset()
    """Names that the same function asks for before it uses them."""
    guard: str = ""
    """The condition that it is under, where that asks what the host offers."""
    call: Call = NOTHING_GIVEN
    signature: Signature = NOTHING_TAKEN
    """Of what stands in, is an override or a wrapper; without its object or the wrapper's executor."""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def steps(path: str) -> list[str]:
    """A path in steps: names, "()" and "[...]"."""
    return re.findall(r"\(\)|\[[^\]]*\]|[^.()\[\]]+", path)
