"""The sources of figures, in the orders in which they are asked: the first one that answers is believed."""

from __future__ import annotations

from .framework import AllocatorSource, DriverSource
from .kernel import KernelSource
from .readings import SourceFactory
from .sysman import SysmanSource

OF_MEMORY: tuple[SourceFactory, ...] = (DriverSource, SysmanSource, KernelSource, AllocatorSource)
"""In order of cost. The driver's own answer is the cheapest and, where it passes the checks, as good as Sysman's."""

OF_SENSORS: tuple[SourceFactory, ...] = (SysmanSource, DriverSource, KernelSource)
"""In order of trust. Sysman before torch: it finds the device by UUID, tells rates without sleeping."""
