"""This machine's CPU plan, measured once and kept."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..machine.cache import cache_directory
from .attention import Path as AttentionPath
from .capabilities import Capabilities, capabilities, usable_cores
from .measure import measure_plan
from .plan import OVERRIDES_VARIABLE, AttentionRule, CpuPlan, overridden


def cpu_plan(
    cache: Path | None = None,
    *,
    measure: Callable[[Capabilities], CpuPlan] = measure_plan,
    cores: Callable[[], int] = usable_cores,
) -> CpuPlan:
    """The plan of this machine: from the cache where it was measured before, else measured now (a few seconds).

    Raises:
        ValueError: the overrides variable names an unknown choice.
    """
    found = capabilities()
    file = (cache or cache_directory()) / f"cpu_{found.identity}.json"
    plan = _cached(file)
    if plan is None:
        logging.info("XPU Nodes: measuring this CPU, once (kept in %s).", file)
        plan = measure(found)
        _store(file, plan)
    plan = dataclasses.replace(plan, threads=cores())
    return overridden(plan, os.environ.get(OVERRIDES_VARIABLE, ""))


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
