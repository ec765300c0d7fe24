"""The node that frees the devices' memory."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.host.memory import free_memory
from .base import ToolNode, passed_through


class XPUFreeMemory(ToolNode):
    """Unloads every model from the devices and passes its input through.

    Put it between two heavy parts of a graph; what is needed again is loaded again.
    """

    TITLE = "XPU Free Memory"
    ALIASES = ("unload", "vram", "out of memory", "purge", "clean")
    ENDS = False

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [passed_through("anything", (io.AnyType,), "Passed through.")[0]]

    @classmethod
    def outputs(cls) -> list[io.Output]:
        return [passed_through("anything", (io.AnyType,), "")[1]]

    @classmethod
    def execute(cls, anything: Any) -> io.NodeOutput:
        return io.NodeOutput(anything, ui={"text": [free_memory()]})


NODES = (XPUFreeMemory,)
