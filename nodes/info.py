"""Nodes that report on devices and free their memory."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..xpu_utils.host.memory import free_memory
from ..xpu_utils.host.panel.report import device_report
from .base import ToolNode


class XPUDeviceInfo(ToolNode):
    """Reports the devices of this machine, why others cannot be used, and what the pack changed in ComfyUI."""

    TITLE = "XPU Device Info"
    ALIASES = ("vram", "gpu", "devices")

    @classmethod
    def outputs(cls) -> list[io.Output]:
        return [io.String.Output(display_name="report")]

    @classmethod
    def execute(cls) -> io.NodeOutput:
        report = device_report()
        return io.NodeOutput(report, ui={"text": [report]})


class XPUFreeMemory(ToolNode):
    """Unloads every model from the devices and passes its input through.

    Put it between two heavy parts of a graph; what is needed again is loaded again.
    """

    TITLE = "XPU Free Memory"
    ALIASES = ("unload", "vram", "out of memory", "purge", "clean")
    ENDS = False

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [io.AnyType.Input("anything", tooltip="Passed through.")]

    @classmethod
    def outputs(cls) -> list[io.Output]:
        return [io.AnyType.Output(display_name="anything")]

    @classmethod
    def execute(cls, anything: Any) -> io.NodeOutput:
        return io.NodeOutput(anything, ui={"text": [free_memory()]})


NODES = (XPUDeviceInfo, XPUFreeMemory)
