"""What this machine's CPU has, as far as PyTorch and the operating system tell."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch

from ..machine.devices import cpu_name, physical_cores

MASKING_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
"""Variables that hide instructions from the libraries: part of the machine's identity."""

INSTRUCTIONS = ("amx_bf16", "amx_fp16", "amx_int8", "avx512_fp16", "avx512_bf16", "avx512_f", "avx2")

PLAN_VERSION = 4
"""Raised when a plan is measured differently than before, so that it is measured anew."""


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What the CPU has, as far as PyTorch and the operating system tell."""

    name: str
    instructions: tuple[str, ...]
    """Members of `INSTRUCTIONS`, best first."""
    physical_cores: int
    torch_version: str
    masks: tuple[str, ...]
    """Instructions the user hides from the libraries, as "VARIABLE=value"."""
    plan_version: int = PLAN_VERSION

    @property
    def identity(self) -> str:
        """A name for this machine as far as speed is concerned: a plan holds for one identity."""
        return hashlib.sha256(repr(dataclasses.astuple(self)).encode()).hexdigest()[:16]


def capabilities(environment: Mapping[str, str] | None = None) -> Capabilities:
    """Reads the CPU's capabilities; older builds of PyTorch answer less and get less."""
    environment = os.environ if environment is None else environment
    known: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else _older()
    return Capabilities(
        name=cpu_name(),
        instructions=tuple(name for name in INSTRUCTIONS if known.get(name)),
        physical_cores=physical_cores(),
        torch_version=torch.__version__,
        masks=tuple(f"{name}={environment[name]}" for name in MASKING_VARIABLES if environment.get(name)),
    )


def _older() -> dict[str, bool]:
    """The same names from what PyTorch 2.7 answers."""
    level = torch.backends.cpu.get_cpu_capability()
    probes = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    known = {name: bool(getattr(torch.cpu, probe, bool)()) for name, probe in probes.items()}
    return {**known, "avx512_f": "AVX512" in level, "avx2": level == "AVX2" or "AVX512" in level}


def usable_cores() -> int:
    """Physical cores this process may run on: hyperthreads share one core's arithmetic units."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical_cores()
    return min(physical_cores(), allowed)
