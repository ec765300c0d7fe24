"""Simulated Intel XPUs on a CPU build of PyTorch: see README.md beside this file."""

from __future__ import annotations

from .build import CannotSimulate
from .config import BadConfig, Config, Device, Telemetry
from .faults import Fault
from .simulation import Simulation, current, install
from .statistics import Copy, Statistics

__all__ = [
    "BadConfig",
    "CannotSimulate",
    "Config",
    "Copy",
    "Device",
    "Fault",
    "Simulation",
    "Statistics",
    "Telemetry",
    "current",
    "install",
]
