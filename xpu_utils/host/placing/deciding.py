"""The decision about an object, by what this process knows of its CPU and its devices."""

from __future__ import annotations

from typing import Any

import torch

from ... import decision
from ...decision import Decision, Kind, Subject
from ...machine.devices import Device
from ...placement import Placement
from ...precision import INT8
from ...selftest.gates import product
from ...selftest.products import held_in_int8
from ...selftest.result import computes
from ..cpu_engine import machine_plan
from ..int8 import in_int8
from .formats import compute_dtype


def decide(asked: Placement, subject: Subject) -> Decision:
    """What is done to an object; see `xpu_utils.decision.decide`."""
    return decision.decide(asked, subject, find_plan=machine_plan, computes=_computes)


def _computes(device: Device, precision: str) -> bool:
    if precision == INT8:
        return product(device, held_in_int8()).right
    return computes(device, precision)


def subject_at_work(model: Any) -> Subject:
    """What is known of a MODEL that was placed, and whose weights come as was decided then."""
    return Subject(Kind.MODEL, compute_dtype(model), in_int8=in_int8(model))


def file_format(asked: Placement, kind: Kind) -> torch.dtype | None:
    """The format that an object's weights are read in; see `xpu_utils.decision.file_format`."""
    return decision.file_format(asked, kind, find_plan=machine_plan)
