"""Main memory and processor, through psutil."""

from __future__ import annotations

import psutil

from .readings import HostSample


def read_host() -> HostSample:
    """One look at the host; the processor's share counts from the call before (0 in the first)."""
    memory = psutil.virtual_memory()
    return HostSample(
        total_bytes=memory.total,
        used_bytes=memory.total - memory.available,
        own_bytes=psutil.Process().memory_info().rss,
        cpu_percent=psutil.cpu_percent(interval=None),
    )
