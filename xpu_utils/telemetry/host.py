"""Main memory and processor."""

from __future__ import annotations

import psutil

from ..machine.host_memory import read_host_memory
from .readings import HostSample


def read_host() -> HostSample:
    """One look at the host; the processor's share counts from the call before (0 in the first)."""
    memory = read_host_memory()
    return HostSample(
        total_bytes=memory.total_bytes,
        used_bytes=memory.total_bytes - memory.available_bytes,
        own_bytes=psutil.Process().memory_info().rss,
        cpu_percent=psutil.cpu_percent(interval=None),
    )
