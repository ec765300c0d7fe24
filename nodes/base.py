"""What the nodes share: the device and precision inputs, and how a schema is made from a class."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import cleandoc
from typing import Any

from comfy_api.latest import io

from ..xpu_utils.choice import AUTO
from ..xpu_utils.host.choices import OFFERED, check_input
from ..xpu_utils.host.inventory import host_inventory, placement_for
from ..xpu_utils.host.stages import decided, run_stage
from ..xpu_utils.placement import Placement, check_device_name
from ..xpu_utils.precision import PRECISIONS, check_precision
from ..xpu_utils.residency import CHOICES as RESIDENT_CHOICES
from ..xpu_utils.residency import resident_share

CHECKS: Mapping[str, Callable[[object], object]] = {
    "device": check_device_name,  # any name, so that a workflow from a machine with other devices still opens
    "precision": check_precision,
    "resident": resident_share,
    **{name: functools.partial(check_input, name) for name in OFFERED},
}
"""What refuses an input's value, by its name; the same is done with a linked value when the node runs."""


LOADERS, PLACE, SAMPLING, TOOLS = (f"XPU/{name}" for name in ("loaders", "place", "sampling", "tools"))
"""Categories."""

MEMORY_ALIASES = ("vram", "offload", "out of memory")
"""What people search for who need a node with a `device`."""


class XPUNode(io.ComfyNode):
    """A node with a `device` input, whose class docstring is its help text."""

    TITLE: str
    STAGE: str
    CATEGORY: str
    ALIASES: tuple[str, ...] = ()
    """What else a user may search for: a stock node that this one takes the place of, by its class name first."""
    OUTPUTS: tuple[Any, ...]
    """ComfyUI's types of them."""
    LEAVES_PLACED = False
    """Whether "auto" leaves a placed object where it is."""

    @classmethod
    def inputs(cls) -> list[io.Input]:
        raise NotImplementedError

    @classmethod
    def last_inputs(cls) -> list[io.Input]:
        """Inputs below device and precision."""
        return []

    @classmethod
    def outputs(cls) -> list[io.Output]:
        return [kind.Output() for kind in cls.OUTPUTS]

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.__name__,
            display_name=cls.TITLE,
            category=cls.CATEGORY,
            description=cleandoc(cls.__doc__ or ""),
            inputs=[*cls.inputs(), device_input(cls.LEAVES_PLACED), precision_input(), *cls.last_inputs()],
            outputs=cls.outputs(),
            **aliases(*cls.ALIASES, *MEMORY_ALIASES),
        )

    @classmethod
    def validate_inputs(cls, device: object = None, precision: object = None) -> bool | str:
        return accepted(device=device, precision=precision)

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
    def validate_inputs(cls, device: object = None, precision: object = None, resident: object = None) -> bool | str:
        return accepted(device=device, precision=precision, resident=resident)


class ToolNode(io.ComfyNode):
    """A node about the machine, not about a model: it runs in every prompt anew, whatever it is given."""

    TITLE: str
    ALIASES: tuple[str, ...]
    """What else a user may search for."""
    ENDS = True
    """Whether a graph may end with it."""

    @classmethod
    def inputs(cls) -> list[io.Input]:
        return []

    @classmethod
    def outputs(cls) -> list[io.Output]:
        raise NotImplementedError

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.__name__,
            display_name=cls.TITLE,
            category=TOOLS,
            description=cleandoc(cls.__doc__ or ""),
            inputs=cls.inputs(),
            outputs=cls.outputs(),
            is_output_node=cls.ENDS,
            not_idempotent=True,
            **aliases(*cls.ALIASES),
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        return float("nan")  # never equal to itself


def aliases(*names: str) -> dict[str, Any]:
    """The schema's keyword for what else a user may search for, where this ComfyUI has it."""
    return known_to(io.Schema, search_aliases=list(names))


def known_to(described: Callable[..., Any], **keywords: Any) -> dict[str, Any]:
    """Those of a node's or input's keywords that this ComfyUI has: newer ones have it found or shown better."""
    parameters = inspect.signature(described).parameters
    return {name: value for name, value in keywords.items() if name in parameters}


def passed_through(name: str, kinds: Sequence[Any], tooltip: str) -> tuple[io.Input, io.Output]:
    """An input of several types, and the output of whichever is connected there.

    Where the editor is not told which outputs match which inputs, the output fits everywhere.
    """
    if hasattr(io.NodeInfoV1, "output_matchtypes"):
        template = io.MatchType.Template(name, list(kinds))
        matched = io.MatchType.Input(name, template=template, tooltip=tooltip)
        return matched, io.MatchType.Output(id=name, template=template, display_name=name)
    several = io.AnyType.Input(name, tooltip=tooltip)
    if io.AnyType not in kinds:
        several = io.MultiType.Input(name, list(kinds), tooltip=tooltip)
    return several, io.AnyType.Output(display_name=name)


def accepted(**values: object) -> bool | str:
    """Checks inputs before a prompt is queued: True, or the sentence that refuses one.

    Args:
        values: the values by input; None for an input that is linked and has no value yet.
    """
    for name, value in values.items():
        if value is not None:
            try:
                CHECKS[name](value)
            except ValueError as error:
                return str(error)
    return True


def asked_for(device: str, precision: str, resident: str = AUTO) -> Placement:
    """Where a loader or place node's object goes, shown while the node still works."""
    placement = placement_for(device, precision, resident)
    decided(placement)
    return placement


def device_input(leaves_placed: bool = False) -> io.Combo.Input:
    options = [AUTO, *(device.id for device in host_inventory().devices)]
    placed = "where a node of this pack placed it, else " if leaves_placed else ""
    return io.Combo.Input(
        "device",
        options=options,
        default=AUTO,
        optional=True,
        tooltip=f"Where to run. auto: {placed}an XPU if there is one, else another accelerator, else the CPU. A device "
        "that this machine lacks becomes the best it has, and the node says so.",
    )


def precision_input() -> io.Combo.Input:
    return io.Combo.Input(
        "precision",
        options=list(PRECISIONS),
        default=AUTO,
        optional=True,
        tooltip="The number format to compute in. auto: what is right for the device. cpu with fp32 gives exactly "
        "what the stock node gives. int8 holds a diffusion model in half of bf16's memory on the device, close to it; "
        "on a CPU that mostly takes longer.",
    )


def resident_input() -> io.Combo.Input:
    return io.Combo.Input(
        "resident",
        options=list(RESIDENT_CHOICES),
        default=AUTO,
        optional=True,
        tooltip="How much of the weights stays on the device. auto: as much as fits. The rest is copied there while "
        "the model computes; the picture is the same.",
        **known_to(io.Combo.Input, advanced=True),
    )
