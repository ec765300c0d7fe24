"""What the nodes share: the device and precision inputs, and how a schema is made from a class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import cleandoc
from typing import Any

from comfy_api.latest import io

from ..xpu_utils.host.inventory import host_inventory
from ..xpu_utils.host.stages import run_stage
from ..xpu_utils.placement import AUTO, Placement, check_device_name
from ..xpu_utils.precision import PRECISIONS
from ..xpu_utils.residency import CHOICES as RESIDENT_CHOICES
from ..xpu_utils.residency import resident_share


class XPUNode(io.ComfyNode):
    """A node with a `device` input, whose class docstring is its help text."""

    TITLE: str
    STAGE: str

    @classmethod
    def inputs(cls) -> list[io.Input]:
        raise NotImplementedError

    @classmethod
    def last_inputs(cls) -> list[io.Input]:
        """Inputs below device and precision."""
        return []

    @classmethod
    def outputs(cls) -> list[io.Output]:
        raise NotImplementedError

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.__name__,
            display_name=cls.TITLE,
            category="XPU",
            description=cleandoc(cls.__doc__ or ""),
            inputs=[*cls.inputs(), device_input(), precision_input(), *cls.last_inputs()],
            outputs=cls.outputs(),
        )

    @classmethod
    def validate_inputs(cls, device: object = AUTO, precision: object = AUTO) -> bool | str:
        """Accepts any device name, so that a workflow from a machine with other devices still opens."""
        try:
            check_device_name(device)
        except ValueError as error:
            return str(error)
        return offered("precision", precision, PRECISIONS)

    @classmethod
    def run(cls, work: Callable[[], tuple[Any, Placement]]) -> io.NodeOutput:
        """Runs the node's stage; the work answers one output, or a tuple of them, and the placement."""
        output, ui = run_stage(cls.STAGE, work)
        outputs = output if isinstance(output, tuple) else (output,)
        return io.NodeOutput(*outputs, ui=ui)


class XPUModelNode(XPUNode):
    """A node that places a MODEL, whose weights may stream."""

    @classmethod
    def last_inputs(cls) -> list[io.Input]:
        return [resident_input()]

    @classmethod
    def validate_inputs(cls, device: object = AUTO, precision: object = AUTO, resident: object = AUTO) -> bool | str:
        """Accepts any percentage as well."""
        try:
            resident_share(resident)
        except ValueError as error:
            return str(error)
        return super().validate_inputs(device, precision)


def offered(name: str, value: object, choices: Sequence[str]) -> bool | str:
    """Refuses a choice that is not in the list: ComfyUI itself does not check V3 combos."""
    return value in choices or f"{name}: {str(value)[:40]} is not offered, use one of {', '.join(choices)}."


def device_input() -> io.Combo.Input:
    options = [AUTO, *(device.id for device in host_inventory().devices)]
    return io.Combo.Input(
        "device",
        options=options,
        default=AUTO,
        tooltip="Where to run. auto: an XPU if there is one, else another accelerator, else the CPU. A device that "
        "this machine lacks becomes the best it has, and the node says so.",
    )


def precision_input() -> io.Combo.Input:
    return io.Combo.Input(
        "precision",
        options=list(PRECISIONS),
        default=AUTO,
        tooltip="The number format to compute in. auto: what is right for the device. cpu with fp32 gives exactly "
        "what the stock node gives.",
    )


def resident_input() -> io.Combo.Input:
    return io.Combo.Input(
        "resident",
        options=list(RESIDENT_CHOICES),
        default=AUTO,
        optional=True,
        tooltip="How much of the weights stays on the device. auto: as much as fits. The rest streams through a small "
        "buffer while the model computes; the picture is the same.",
    )
