"""This machine's CPU plan, measured once and kept."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..machine.cache import cache_directory, keep, recall
from .capabilities import Capabilities, capabilities, usable_cores
from .measure import measure_plan
from .plan import OVERRIDES_VARIABLE, CpuPlan, overridden


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
    plan = recall(file, CpuPlan)
    if plan is None:
        logging.info("XPU Nodes: measuring this CPU, once (kept in %s).", file)
        plan = measure(found)
        keep(file, plan, what="the CPU's plan")
    plan = dataclasses.replace(plan, threads=cores())
    return overridden(plan, os.environ.get(OVERRIDES_VARIABLE, ""))
