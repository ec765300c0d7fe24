"""Failures as Intel's runtime shows them, and when they happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


class Kind(NamedTuple):
    effect: str
    """What the extension does: see `FaultRule` in csrc/state.h."""
    message: str


DEVICE_LOST = "level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"

LARGEST = 2**63 - 1
_LEAST = {"device": 0, "nth": 1, "times": 1, "seed": 0, "above_bytes": 0}

KINDS: dict[str, Kind] = {
    # torch.OutOfMemoryError, with the allocator's own text.
    "out_of_memory": Kind("out_of_memory", ""),
    # RuntimeErrors, as quoted in pytorch #177714, #190972, ComfyUI #10847, ComfyUI-GGUF #282.
    "out_of_device_memory": Kind(
        "runtime_error", "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"
    ),
    "out_of_resources": Kind(
        "runtime_error", "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"
    ),
    # What Xe-LP answers to bf16 kernels, and newer devices to some shapes (ComfyUI #11032).
    "invalid_argument": Kind(
        "runtime_error", "level_zero backend failed with error: 45 (UR_RESULT_ERROR_INVALID_ARGUMENT)"
    ),
    # The same as older runtimes word it, PI instead of UR.
    "native_api_39": Kind(
        "runtime_error", "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"
    ),
    "native_api_40": Kind(
        "runtime_error", "Native API failed. Native API returns: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"
    ),
    # From here on everything on the device fails, for the life of the process.
    "device_lost": Kind("device_lost", DEVICE_LOST),
    # The call does not come back, nor does any other on the device, until `Simulation.let_go_on`. Freeing does; what
    # was freed meanwhile is counted, since a real allocator may wait for the driver in that.
    "hang": Kind("hang", ""),
    # The call succeeds, its floating-point result is not right.
    "nan": Kind("nan", ""),
    # It is right, and NaN once the cache was emptied, unless something of it was read to the host before (pytorch
    # #197520); fired once it was spoiled.
    "stale": Kind("stale", ""),
    "wrong_result": Kind("wrong_result", ""),
    # Any other text, given in the fault's `message`.
    "error": Kind("runtime_error", ""),
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A rule: which calls fail, and how.

    Calls are operators ("aten::add.Tensor", or "add" for every overload) and the runtime's own
    ("runtime::malloc", "runtime::synchronize", "runtime::empty_cache", "runtime::mem_get_info",
    "runtime::pin_memory"). An operator that PyTorch composes of others is none: "linear" is "addmm"
    or "mm" here. Views compute nothing and never fail.
    """

    operator: str
    """Glob over those names."""
    kind: str
    """One of `KINDS`."""
    device: int | None = None
    """Device index; None for any."""
    nth: int = 1
    """The first matching call that can fail, counted from 1."""
    times: int | None = 1
    """How many calls fail; None for all from `nth` on. A `nan` or `wrong_result` has happened once a
    floating-point result was changed."""
    probability: float = 1.0
    seed: int = 0
    above_bytes: int = 0
    """`nan` and `wrong_result` only: results up to this size stay right; of a wrong result, what
    lies beyond is wrong."""
    message: str | None = None
    """Replaces the kind's message."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"There is no fault {self.kind!r}: choose one of {', '.join(KINDS)}.")
        if self.kind == "error" and not self.message:
            raise ValueError("A fault of kind 'error' needs a message.")
        if not 0 < self.probability <= 1:
            raise ValueError(f"A fault's probability must be above 0 and at most 1, not {self.probability}.")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= LARGEST:
                raise ValueError(f"A fault's {name} must be from {least} to {LARGEST}, not {value}.")
        if self.kind in ("nan", "stale", "wrong_result") and self.operator.startswith("runtime::"):
            raise ValueError(
                f"A fault of kind {self.kind!r} needs a result and {self.operator} has none: name an operator."
            )

    def rule(self, core: Any) -> Any:
        """Return this fault as the extension's `FaultRule`."""
        rule = core.FaultRule()
        rule.operator_glob = self.operator
        rule.effect = KINDS[self.kind].effect
        rule.message = self.message or KINDS[self.kind].message
        rule.device = -1 if self.device is None else self.device
        rule.nth = self.nth
        rule.times = -1 if self.times is None else self.times
        rule.probability = self.probability
        rule.seed = self.seed
        rule.above_bytes = self.above_bytes
        return rule
