"""What this machine's CPU is good at: its capabilities, and a plan from a measurement made once per machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from ..machine.cache import cache_directory
from ..machine.devices import cpu_name
from ..precision import PRECISIONS, dtype_of, name_of
from .attention import Path as AttentionPath

OVERRIDES_VARIABLE = "XPU_NODES_CPU"
"""Environment variable with choices that replace the measured ones: "precision=fp32,threads=8,attention=sdpa"."""

MASKING_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
"""Variables that hide instructions from the libraries: part of the machine's identity."""

INSTRUCTIONS = ("amx_bf16", "amx_fp16", "amx_int8", "avx512_fp16", "avx512_bf16", "avx512_f", "avx2")

WORK_PER_THREAD = 8_000_000
"""Operations of one head's product that each thread must have, or starting the threads costs more than the work.

SDPA starts them once for all heads, the other paths for each head: with 2 threads the break-even was near 1024x77x80.
"""

PLAN_VERSION = 2
"""Raised when a plan is measured differently than before, so that it is measured anew."""

LARGEST = 1 << 30
"""Stands for "no limit" in an attention rule."""


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

    @property
    def identity(self) -> str:
        """A name for this machine as far as speed is concerned: a plan holds for one identity."""
        return hashlib.sha256(repr((PLAN_VERSION, dataclasses.astuple(self))).encode()).hexdigest()[:16]


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


def capabilities(environment: Mapping[str, str] | None = None) -> Capabilities:
    """Reads the CPU's capabilities; older builds of PyTorch answer less and get less."""
    environment = os.environ if environment is None else environment
    known: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else _older()
    return Capabilities(
        name=cpu_name(),
        instructions=tuple(name for name in INSTRUCTIONS if known.get(name)),
        physical_cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
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
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed))


def cpu_plan(cache: Path | None = None) -> CpuPlan:
    """The plan of this machine: from the cache where it was measured before, else measured now (a few seconds).

    Raises:
        ValueError: the overrides variable names an unknown choice.
    """
    found = capabilities()
    file = (cache or cache_directory()) / f"cpu_{found.identity}.json"
    plan = _cached(file)
    if plan is None:
        from .measure import measure_plan

        logging.info("XPU Nodes: measuring this CPU, once (kept in %s).", file)
        plan = measure_plan(found)
        _store(file, plan)
    plan = dataclasses.replace(plan, threads=usable_cores())
    return overridden(plan, os.environ.get(OVERRIDES_VARIABLE, ""))


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
    if name == "precision" and value in PRECISIONS[1:]:
        return value
    if name == "threads" and value.isdigit() and int(value) > 0:
        return int(value)
    if name in ("channels_last", "keep_freed_memory") and value in ("on", "off"):
        return value == "on"
    if name == "attention" and value in [path.value for path in AttentionPath]:
        path = AttentionPath(value)
        return tuple(AttentionRule(precision, LARGEST, LARGEST, path) for precision in PRECISIONS[1:])
    raise ValueError(
        f"{OVERRIDES_VARIABLE}: {name}={value} is not known, use precision=fp32|bf16|fp16, threads=N, "
        "channels_last=on|off, keep_freed_memory=on|off or attention=sdpa|softmax|sigmoid."
    )


def _cached(file: Path) -> CpuPlan | None:
    """The stored plan; None where there is none that this version of the code can read."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        rules = tuple(AttentionRule(**{**rule, "path": AttentionPath(rule["path"])}) for rule in data["attention"])
        return CpuPlan(**{**data, "attention": rules, "onednn_linear": tuple(data["onednn_linear"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(file: Path, plan: CpuPlan) -> None:
    """Keeps the plan; a machine without a writable cache measures again at every start."""
    data = dataclasses.asdict(plan)
    data["attention"] = [{**rule, "path": rule["path"].value} for rule in data["attention"]]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        logging.warning("XPU Nodes: the CPU's measurements cannot be kept in %s (%s).", file.parent, error)
