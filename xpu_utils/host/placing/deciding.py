"""The decision about an object, by what this process knows of its CPU and its devices."""

from __future__ import annotations

import torch

from ... import decision
from ...decision import Decision, Kind, Subject
from ...placement import Placement
from ...selftest.result import computes
from ..cpu_engine import machine_plan


def decide(asked: Placement, subject: Subject) -> Decision:
    """What is done to an object; see `xpu_utils.decision.decide`."""
    return decision.decide(asked, subject, find_plan=machine_plan, computes=computes)


def file_format(asked: Placement, kind: Kind) -> torch.dtype | None:
    """The format that an object's weights are read in; see `xpu_utils.decision.file_format`."""
    return decision.file_format(asked, kind, find_plan=machine_plan)
