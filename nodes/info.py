"""Nodes that report on devices and free their memory."""

from __future__ import annotations

from inspect import cleandoc
from typing import Any

from comfy_api.latest import io

from ..xpu_utils.host.memory import free_memory
from ..xpu_utils.host.panel.report import device_report
from .base import TOOLS, aliases


class XPUDeviceInfo(io.ComfyNode):
    """Reports the devices of this machine, why others cannot be used, and what the pack changed in ComfyUI."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="XPUDeviceInfo",
            display_name="XPU Device Info",
            category=TOOLS,
            description=cleandoc(cls.__doc__ or ""),
            outputs=[io.String.Output(display_name="report")],
            is_output_node=True,
            not_idempotent=True,
            **aliases("vram", "gpu", "devices"),
        )

    @classmethod
    def fingerprint_inputs(cls) -> float:
        return float("nan")  # never equal to itself: what is free changes between prompts

    @classmethod
    def execute(cls) -> io.NodeOutput:
        report = device_report()
        return io.NodeOutput(report, ui={"text": [report]})


class XPUFreeMemory(io.ComfyNode):
    """Unloads every model from the devices and passes its input through.

    Put it between two heavy parts of a graph; what is needed again is loaded again.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="XPUFreeMemory",
            display_name="XPU Free Memory",
            category=TOOLS,
            description=cleandoc(cls.__doc__ or ""),
            inputs=[io.AnyType.Input("anything", tooltip="Passed through.")],
            outputs=[io.AnyType.Output(display_name="anything")],
            not_idempotent=True,
            **aliases("unload", "vram", "out of memory", "purge", "clean"),
        )

    @classmethod
    def fingerprint_inputs(cls, anything: Any = None) -> float:
        return float("nan")  # never equal to itself: memory is freed in every prompt, whatever the input

    @classmethod
    def execute(cls, anything: Any) -> io.NodeOutput:
        return io.NodeOutput(anything, ui={"text": [free_memory()]})


NODES = (XPUDeviceInfo, XPUFreeMemory)
