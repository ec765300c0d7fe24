"""How models run on a CPU: the choices, and what the user puts in place of measured ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ..precision import FLOATS, dtype_of, name_of
from .attention import AttentionPath

OVERRIDES_VARIABLE = "XPU_NODES_CPU"
"""Environment variable with choices that replace the measured ones: "precision=fp32,threads=8,attention=sdpa"."""

WORK_PER_THREAD = 8_000_000
"""Operations of one head's product that each thread must have, or starting the threads costs more than the work.

SDPA starts them once for all heads, the other paths for each head: with 2 threads the break-even was near 1024x77x80.
"""

LARGEST = 1 << 30
"""Stands for "no limit" in an attention rule."""


@dataclasses.dataclass(frozen=True)
class AttentionRule:
    """The fastest path for shapes up to a size."""

    precision: str
    keys_up_to: int
    head_dim_up_to: int
    path: AttentionPath


@dataclasses.dataclass(frozen=True)
class CpuPlan:
    """How models run on this CPU when the precision is left to us."""

    identity: str
    precision: str
    """The faster of "fp32", "bf16" and "fp16"."""
    channels_last: bool
    """Convolutions in the layout (N, H, W, C)."""
    onednn_linear: tuple[str, ...]
    """Precisions in which oneDNN's linear layer beats torch's, which adds the bias apart or uses MKL."""
    convolution_as_product: tuple[str, ...]
    """Precisions in which a convolution of few pixels is faster as oneDNN's matrix product; channels last only."""
    exact_gelu: tuple[str, ...]
    """Precisions in which GELU is faster than its approximation by tanh, and the two differ by less than rounding."""
    threads: int
    """Of this process: it may be allowed fewer cores than the one that measured."""
    keep_freed_memory: bool
    """Have the C library keep large freed blocks: see `keep_freed_memory`."""
    attention: tuple[AttentionRule, ...]
    """Smallest shapes first."""
    speeds: Mapping[str, float]
    """What was measured, for reports: name -> GFLOP/s."""

    @property
    def dtype(self) -> torch.dtype:
        return dtype_of(self.precision) or torch.float32

    def computes(self, precision: str) -> bool:
        """Whether this CPU has units for a precision: one that it emulates can be a hundred times slower than fp32."""
        measured = self.speeds.get(f"gemm {precision}", 0.0)
        return precision in ("fp32", self.precision) or measured > self.speeds["gemm fp32"]

    def attention_path(self, dtype: torch.dtype, queries: int, keys: int, head_dim: int) -> AttentionPath:
        """The path for a shape; SDPA where nothing was measured for the dtype, or there is too little to share out."""
        if 2 * queries * keys * head_dim < WORK_PER_THREAD * self.threads:
            return AttentionPath.SDPA
        precision = name_of(dtype)
        for rule in self.attention:
            if rule.precision == precision and keys <= rule.keys_up_to and head_dim <= rule.head_dim_up_to:
                return rule.path
        return AttentionPath.SDPA


def overridden(plan: CpuPlan, choices: str) -> CpuPlan:
    """The plan with "name=value,..." choices applied: precision, threads, channels_last, keep_freed_memory, attention.

    Raises:
        ValueError: an unknown name, or a value that the name does not take.
    """
    for choice in filter(None, (part.strip() for part in choices.split(","))):
        name, _, value = choice.partition("=")
        plan = dataclasses.replace(plan, **{name: _choice(name, value)})
    return plan


def _choice(name: str, value: str) -> Any:
    if name == "precision" and value in FLOATS:
        return value
    if name == "threads" and value.isdigit() and int(value) > 0:
        return int(value)
    if name in ("channels_last", "keep_freed_memory") and value in ("on", "off"):
        return value == "on"
    if name == "attention" and value in [path.value for path in AttentionPath]:
        path = AttentionPath(value)
        return tuple(AttentionRule(precision, LARGEST, LARGEST, path) for precision in FLOATS)
    raise ValueError(
        f"{OVERRIDES_VARIABLE}: {name}={value} is not known, use precision=fp32|bf16|fp16, threads=N, "
        "channels_last=on|off, keep_freed_memory=on|off or attention=sdpa|softmax|sigmoid."
    )
