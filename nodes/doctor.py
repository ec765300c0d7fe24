"""The node that asks the doctor."""

from __future__ import annotations

from comfy_api.latest import io

from ..xpu_utils.doctor.examine import as_text
from ..xpu_utils.host.panel.diagnosis import diagnose
from .base import ToolNode

_KERNELS = "Run a real kernel on every device, each in a process of its own: some seconds a device."
_PACKS = "Also read the source of the other packs and name the places that insist on CUDA."


class XPUDoctor(ToolNode):
    """Says why a device is not used, or not well, and what to paste to mend it.

    With `run_kernels` a real kernel runs on every device, each in a process of its own, which takes some seconds.
    """

    TITLE = "XPU Doctor"
    ALIASES = ("diagnose", "driver", "not working")

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return [
            io.Boolean.Input("run_kernels", default=True, tooltip=_KERNELS),
            io.Boolean.Input("scan_packs", default=False, tooltip=_PACKS),
        ]

    @classmethod
    def outputs(cls) -> list[io.Output]:
        return [io.String.Output(display_name="findings")]

    @classmethod
    def execute(cls, run_kernels: bool, scan_packs: bool) -> io.NodeOutput:
        machine, findings = diagnose(kernels=run_kernels, packs=scan_packs, in_node=True)
        text = as_text(findings, machine.system)
        return io.NodeOutput(text, ui={"text": [text]})


NODES = (XPUDoctor,)
