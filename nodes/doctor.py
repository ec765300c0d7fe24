"""The node that asks the doctor."""

from __future__ import annotations

from inspect import cleandoc

from comfy_api.latest import io

from ..xpu_utils.doctor.examine import as_text
from ..xpu_utils.host.panel.diagnosis import diagnose
from .base import TOOLS, aliases

_KERNELS = "Run a real kernel on every device, each in a process of its own: some seconds a device."
_PACKS = "Also read the source of the other packs and name the places that insist on CUDA."


class XPUDoctor(io.ComfyNode):
    """Says why a device is not used, or not well, and what to paste to mend it.

    With `run_kernels` a real kernel runs on every device, each in a process of its own, which takes some seconds.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="XPUDoctor",
            display_name="XPU Doctor",
            category=TOOLS,
            description=cleandoc(cls.__doc__ or ""),
            inputs=[
                io.Boolean.Input("run_kernels", default=True, tooltip=_KERNELS),
                io.Boolean.Input("scan_packs", default=False, tooltip=_PACKS),
            ],
            outputs=[io.String.Output(display_name="findings")],
            is_output_node=True,
            not_idempotent=True,
            **aliases("diagnose", "driver", "not working"),
        )

    @classmethod
    def fingerprint_inputs(cls, run_kernels: bool, scan_packs: bool) -> float:
        return float("nan")  # never equal to itself: the machine may have been mended since

    @classmethod
    def execute(cls, run_kernels: bool, scan_packs: bool) -> io.NodeOutput:
        machine, findings = diagnose(kernels=run_kernels, packs=scan_packs, in_node=True)
        text = as_text(findings, machine.system)
        return io.NodeOutput(text, ui={"text": [text]})


NODES = (XPUDoctor,)
