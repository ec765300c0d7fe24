"""What is done to an object so that it runs where and how it was asked to, decided as a whole before any of it is."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable

import torch

from .choice import AUTO
from .cpu.plan import CpuPlan
from .machine.devices import Device
from .placement import Placement
from .precision import INT8, dtype_of, name_of
from .residency import resident_share
from .selftest.result import Computes, best_precision
from .weights.conversion import HALVES

FindPlan = Callable[[], "CpuPlan | None"]
"""Answers the machine's CPU plan, None where there is none; asked only for work on the CPU, as it may measure."""


class Kind(enum.Enum):
    """What an object is; the value is what users are told."""

    MODEL = "a diffusion model"
    CLIP = "a text encoder"
    CLIP_VISION = "a CLIP vision model"
    VAE = "a VAE"
    CONTROLNET = "a ControlNet"
    UPSCALER = "an upscale model"


class AttentionBy(enum.Enum):
    """How an object's attention is computed."""

    STOCK = "as ComfyUI does"
    BUDGET = "within the memory that is free"
    PLAN = "the ways that measured fastest on this CPU"


@dataclasses.dataclass(frozen=True)
class Streaming:
    """How a MODEL's weights come to its device."""

    share: float | None
    """Of the weights, what stays there; None is as much as fits."""
    obstacle: str = ""
    """Why the others cannot stream through it, so that ComfyUI loads them; empty where they can."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is known of an object that is to be placed."""

    kind: Kind
    computes_in: torch.dtype
    """The format that it computes in as it is."""
    formats: tuple[torch.dtype, ...] | None = None
    """Those that it can compute in; None where that is any."""
    dynamic: bool = False
    """Whether ComfyUI streams its weights by itself where it goes (DynamicVRAM)."""
    obstacle: str | None = None
    """What in a MODEL keeps its weights from streaming, if not empty; None where that is decided already."""
    in_int8: bool = False
    """Whether its weights are held in int8 already."""
    int8_obstacle: str = ""
    """What keeps them from being so, if not empty."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """All that will be done to one object."""

    kind: Kind
    placement: Placement
    """Its device, the precision in force, why these differ from what was asked for, and what else is worth saying."""
    dtype: torch.dtype
    """The format that it computes in; its weights may be held in another."""
    plan: CpuPlan | None
    """By which its layers are the CPU engine's; None where they stay ComfyUI's."""
    attention: AttentionBy
    streaming: Streaming | None
    """None where its weights come as ComfyUI has them, or as was decided before."""
    in_int8: bool
    """Whether its weights are held in int8."""
    watch: bool
    """Whether its model calls are repeated after a failure; what is no MODEL repeats its work by itself."""


def decide(asked: Placement, subject: Subject, *, find_plan: FindPlan, computes: Computes) -> Decision:
    """Decides what is done to an object.

    Args:
        asked: its device, and the precision and resident share that were asked for.
        computes: asked only where a format is left to us, as it may run a test.
    """
    in_int8, asked = _int8(asked, subject, computes)
    plan = _plan_of(asked, find_plan)
    dtype, why = _carried_over(asked, subject, plan) if asked.carried_over else _format(asked, subject, plan, computes)
    placement = asked.noting(why) if asked.precision == AUTO else asked.because(why)
    named_int8 = in_int8 and asked.precision == AUTO
    placement = dataclasses.replace(placement, precision=INT8 if named_int8 else name_of(dtype))
    attention, watch = _attention(subject.kind, asked.device, plan), subject.kind is Kind.MODEL
    streaming = None
    if not watch:
        placement = dataclasses.replace(placement, resident=AUTO)
    elif subject.obstacle is not None:
        streaming = streaming_for(asked.device, asked.resident, dynamic=subject.dynamic, obstacle=subject.obstacle)
        if subject.dynamic and asked.resident != AUTO:
            placement = placement.because(f"DynamicVRAM decides what stays on {asked.device.id}, not {asked.resident}")
        else:
            placement = placement.noting(_unshared(asked, streaming))
    return Decision(subject.kind, placement, dtype, plan, attention, streaming, in_int8, watch)


def _int8(asked: Placement, subject: Subject, computes: Computes) -> tuple[bool, Placement]:
    """Whether weights are held in int8, and what is asked of the floats beside them."""
    if asked.precision != INT8:
        held = "the weights were loaded in int8, and stay so" if subject.in_int8 and asked.precision != AUTO else ""
        return subject.in_int8, asked.noting(held)
    floats = dataclasses.replace(asked, precision=AUTO)
    if subject.in_int8:
        return True, floats
    why = subject.int8_obstacle
    if subject.kind is not Kind.MODEL:
        why = f"int8 is for diffusion models, not for {subject.kind.value}"
    elif subject.dynamic:
        why = "DynamicVRAM keeps weights as their file has them, not in int8"
    elif not why and not computes(asked.device, INT8):
        why = f"{asked.device.id} computes int8 wrongly or not at all (self-test)"
    return not why, floats.because(why)


def streaming_for(device: Device, resident: str, *, dynamic: bool, obstacle: str) -> Streaming:
    """How a MODEL's weights come to a device.

    Args:
        resident: "auto" (as much as fits stays there), "all", or a percentage of the weights.
        dynamic, obstacle: as in `Subject`.

    Raises:
        ValueError: `resident` is none of these.
    """
    share = resident_share(resident)
    if device.type == "cpu":
        obstacle = "the model runs on the CPU, where its weights already are"
    elif dynamic:
        ignored = "" if share is None else f", a share of {share:.0%} is not followed"
        obstacle = f"DynamicVRAM streams the weights by itself{ignored}"
    # Copying to memory that is the host's, over and over, would gain nothing.
    return Streaming(1.0 if device.integrated else share, obstacle)


def _unshared(asked: Placement, streaming: Streaming) -> str:
    """Why the share of a MODEL's weights that was asked for does not stay on its device; empty where it does."""
    share = resident_share(asked.resident)
    if share is None or (share == 1 and asked.device.integrated):
        return ""
    reason = streaming.obstacle
    if not reason and asked.device.integrated:
        reason = f"{asked.device.id} computes in the host's memory, where its weights already are"
    return f"resident {asked.resident} is not followed: {reason}" if reason else ""


def _attention(kind: Kind, device: Device, plan: CpuPlan | None) -> AttentionBy:
    """A text encoder's and an image encoder's is small, and upscale models have their own."""
    if device.type != "cpu":
        return AttentionBy.BUDGET if kind in (Kind.MODEL, Kind.VAE) else AttentionBy.STOCK
    planned = plan is not None and kind in (Kind.MODEL, Kind.VAE, Kind.CONTROLNET)
    return AttentionBy.PLAN if planned else AttentionBy.STOCK


def file_format(asked: Placement, kind: Kind, *, find_plan: FindPlan) -> torch.dtype | None:
    """The format that the weights of an object which is loaded are held in; None leaves it to ComfyUI.

    Text encoders are held in a small format where one is asked for: fp32 is what they compute in anyway.
    """
    plan = _plan_of(asked, find_plan)
    if plan is None or asked.precision not in (AUTO, INT8):
        dtype = dtype_of(asked.precision)
    else:
        dtype = None if plan.precision == "fp32" else plan.dtype
    return dtype if kind is not Kind.CLIP or dtype in HALVES else None


def _plan_of(asked: Placement, find_plan: FindPlan) -> CpuPlan | None:
    """The plan that work follows: none away from the CPU, and none for the fp32 reference."""
    reference = asked.reference or (asked.precision == "fp32" and not asked.carried_over)
    return None if asked.device.type != "cpu" or reference else find_plan()


def _formats(subject: Subject, plan: CpuPlan | None) -> tuple[torch.dtype, ...] | None:
    """Those that an object can compute in; None where that is any.

    ComfyUI computes encoders in fp32 whatever their weights are held in; the CPU's plan has another way for text. A
    VAE's layers do not cast, so its format is that of its weights, which DynamicVRAM maps from their file.
    """
    if subject.kind is Kind.CLIP_VISION or (subject.kind is Kind.CLIP and plan is None):
        return (torch.float32,)
    return (subject.computes_in,) if subject.kind is Kind.VAE and subject.dynamic else subject.formats


def _carried_over(asked: Placement, subject: Subject, plan: CpuPlan | None) -> tuple[torch.dtype, str]:
    """As `_format`; on the CPU, what the device that failed computed in is no longer the point, but fp32 stays fp32."""
    formats, wanted = _formats(subject, plan), dtype_of(asked.precision) or subject.computes_in
    left = subject.computes_in
    if asked.device.type == "cpu":
        stays = plan is None or torch.float32 in (wanted, subject.computes_in)
        wanted, left = torch.float32 if plan is None or stays else plan.dtype, torch.float32
    return wanted if formats is None or wanted in formats else left, ""


def _format(asked: Placement, subject: Subject, plan: CpuPlan | None, computes: Computes) -> tuple[torch.dtype, str]:
    """The format to compute in, and why it is another than was asked for or than ComfyUI chose."""
    formats, chosen = _formats(subject, plan), subject.computes_in
    wanted, reason = dtype_of(asked.precision), ""
    if plan is not None and asked.precision == AUTO:
        wanted = plan.dtype
    elif plan is not None and not plan.computes(asked.precision) and (formats is None or wanted in formats):
        wanted, reason = torch.float32, f"this CPU only emulates {asked.precision}, computing in fp32"
    elif asked.precision == AUTO and asked.device.type != "cpu" and formats != (torch.float32,):
        wanted, reason = _tested(asked.device, chosen, computes)
    if wanted is None or formats is None or wanted in formats:
        return wanted or chosen, reason
    if subject.dynamic:
        return chosen, f"DynamicVRAM keeps {subject.kind.value} in {name_of(chosen)}"
    if asked.precision == AUTO:  # nobody has asked for the other one
        return chosen, ""
    return chosen, f"{subject.kind.value} computes in {name_of(chosen)} on {asked.device.id}, not in {asked.precision}"


def _tested(device: Device, chosen: torch.dtype, computes: Computes) -> tuple[torch.dtype | None, str]:
    """Another format, and why, where the device computes wrongly in the one that ComfyUI chose for it."""
    if computes(device, name_of(chosen)):
        return None, ""
    best = best_precision(device, computes)
    if dtype_of(best) == chosen:
        return None, ""
    return dtype_of(best), f"{device.id} computes {name_of(chosen)} wrongly (self-test), using {best}"
