"""What a server's process holds for itself, once nothing is loaded and nothing waits to be given back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psutil

from tests.xpu_sim.control import Client as Simulation

from .server import Server
from .workflows import TRIFLE

MEMORY_PACK = {"memory-pack": Path(__file__).with_name("memory_pack")}
"""The custom node pack that a server needs for this."""


@dataclasses.dataclass(frozen=True)
class Held:
    """What a server's process holds."""

    host_bytes: int
    """Private memory (USS), free parts of the C library's heap that cannot be returned included."""
    in_use_bytes: int
    """What malloc has given out: grows with a leak, not with gaps in its heap."""
    python_blocks: int
    """Python's own allocator takes small objects' memory from the kernel: these are counted, not measured."""


def settled(server: Server, simulation: Simulation | None = None) -> Held:
    """What is held after models are unloaded, caches emptied and the heap is trimmed, without simulated devices'."""
    server.client.post("/free", {"free_memory": True})
    for _ in range(2):  # the thread that runs prompts frees memory after one of them at the latest
        server.client.run(TRIFLE)
    server.client.post("/history", {"clear": True})
    answer = server.client.post("/memory_pack/settle", {})
    apart = device_bytes(simulation) if simulation else 0
    private_bytes = psutil.Process(server.process.pid).memory_full_info().uss
    return Held(private_bytes - apart, answer["in_use_bytes"] - apart, answer["python_blocks"])


def device_bytes(simulation: Simulation) -> int:
    """What is allocated on all simulated devices."""
    return sum(device.allocated_bytes for device in simulation.statistics().devices)
