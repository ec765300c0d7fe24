"""Free memory where comfy-aimdo's allocator is in PyTorch's place; see worker.py."""

from __future__ import annotations

import contextlib
from typing import Any

from tests.neighbours import aimdo  # the host starts it before any pack

import comfy.model_management as model_management  # isort: skip
import torch  # isort: skip

from tests import xpu_sim  # isort: skip
from xpu_utils.host import hooks, memory, neighbours  # isort: skip

DEVICE = torch.device("xpu:0")
GIB = 1 << 30


def case_free_memory() -> dict[str, Any]:
    """The hooks, and the figure with other programs, while it holds weights, and as soon as it gives them back."""
    memory.apply_free_memory_hook()
    memory.apply_memory_fraction()
    total_bytes = torch.xpu.get_device_properties(0).total_memory
    others_bytes = xpu_sim.current().devices[0].other_process_bytes
    room = torch.zeros(GIB, dtype=torch.uint8, device=DEVICE)
    taken_bytes = {"others": others_bytes, "ours": room.numel(), "theirs": 2 * GIB}
    aimdo.hold(0, 2 * GIB)
    held = model_management.get_free_memory(DEVICE)
    aimdo.hold(0, -2 * GIB)
    given_back = model_management.get_free_memory(DEVICE)
    found = {"total": total_bytes, "taken": taken_bytes, "held": held, "given_back": given_back}
    found["present"] = [name for name, _ in neighbours.present() if name != "DynamicVRAM"]
    found["hooks"] = [str(hook) for hook in hooks.hooks()]
    stats, torch.xpu.memory_stats = torch.xpu.memory_stats, aimdo.refused
    with contextlib.suppress(RuntimeError):  # ComfyUI's own figure is refused too
        model_management.get_free_memory(DEVICE)
    torch.xpu.memory_stats = stats
    found["blind"] = str(hooks.hooks()[0])
    model_management.get_free_memory(DEVICE)
    found["again"] = str(hooks.hooks()[0])
    return found
