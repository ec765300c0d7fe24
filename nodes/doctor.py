"""The node that asks the doctor."""

from __future__ import annotations

from comfy_api.latest import ComfyAPI, io

from ..xpu_utils.doctor.examine import as_text
from ..xpu_utils.host.inventory import explained_inventory
from ..xpu_utils.host.panel.diagnosis import diagnose
from ..xpu_utils.memory import listing
from ..xpu_utils.selftest import gates
from .base import ToolNode

_KERNELS = "Run a real kernel on every device, each in a process of its own: some seconds a device."
_PACKS = "Also read the source of the other packs and name the places that insist on CUDA."


class XPUDoctor(ToolNode):
    """Says why a device is not used, or not well, and what to paste to mend it.

    Also what the pack changed in ComfyUI; then the devices of this machine, and why others cannot be used.
    With `run_kernels` a real kernel runs on every device, each in a process of its own, which takes some seconds.
    """

    TITLE = "XPU Doctor"
    ALIASES = ("diagnose", "driver", "not working", "devices", "gpu", "vram")

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
        formats = gates.as_text(machine.inventory.accelerators)
        devices = listing.as_text(explained_inventory())
        text = "\n\n".join(filter(None, (as_text(findings, machine.system), devices, formats)))
        return io.NodeOutput(text, ui={"text": [text]})


async def replace_device_info() -> None:
    """Has the doctor take the place of XPU Device Info in older workflows, where ComfyUI can replace nodes."""
    report_only = [{"new_id": name, "set_value": False} for name in ("run_kernels", "scan_packs")]
    same_output = [{"new_idx": 0, "old_idx": 0}]
    if hasattr(io, "NodeReplace"):
        old = io.NodeReplace("XPUDoctor", "XPUDeviceInfo", input_mapping=report_only, output_mapping=same_output)
        await ComfyAPI().node_replacement.register(old)


NODES = (XPUDoctor,)
