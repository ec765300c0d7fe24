"""What a model computes in: as it was placed, or in another format until a piece of work ends."""

from __future__ import annotations

import uuid
from typing import Any

import comfy.model_management as model_management
import torch

from ...cpu.plan import CpuPlan
from ...precision import INT8
from ...recovery.faults import is_lost
from ...weights.conversion import HALVES, Conversion, convert, converted_bytes
from ...weights.int8_layers import Holding
from ..int8 import hold_in_int8, in_int8
from ..target import HOST, is_dynamic, unload
from .placed import placement_of


def compute_dtype(model: Any) -> torch.dtype:
    """The dtype a MODEL computes in: its cast dtype where one is set, else that of its weights."""
    cast = model.get_model_object("manual_cast_dtype")
    return cast if cast is not None else model.model_dtype()


def set_compute_dtype(model: Any, dtype: torch.dtype | None) -> None:
    """Has a MODEL compute in a dtype; weights in another are cast at every use. None leaves it as it is."""
    if dtype is None or compute_dtype(model) == dtype:
        return
    if model.model_dtype() == dtype:  # the weights have it already: nothing needs casting
        model.add_object_patch("manual_cast_dtype", None)
        model.force_cast_weights = False
        model.patches_uuid = uuid.uuid4()
    else:
        model.set_model_compute_dtype(dtype)


def note_dtypes(network: torch.nn.Module) -> None:
    """Has newer hosts, which cast a weight to the dtype that they noted of it, note the one that it has now."""
    if hasattr(model_management, "archive_model_dtypes"):
        model_management.archive_model_dtypes(network)


class WorkFormat:
    """Another format and other layers for a patcher's model until `restore`, which leaves weights as they were."""

    def __init__(self, patcher: Any, network: Any) -> None:
        """`network` is the part of the patcher's model that is converted: a MODEL has tensors of its own beside it."""
        self._patcher = patcher
        self._network = network
        self._before: tuple[dict[str, Any], bool] | None = None
        """The object patches, and whether weights are cast."""
        self._dtype = getattr(network, "dtype", None)
        self._conversions: list[Conversion | Holding] = []

    def begin(self) -> None:
        """Takes the weights to the host and notes how the patcher is; once."""
        unload(self._patcher)
        if self._before is None:
            self._before = (dict(self._patcher.object_patches), self._patcher.force_cast_weights)
        self._patcher.patches_uuid = uuid.uuid4()

    def hold_where_room(self, dtype: torch.dtype, plan: CpuPlan | None = None) -> None:
        """`begin`, and `hold` where host memory has room for the converted weights."""
        self.begin()
        if self._has_room(dtype, _last(plan)):
            self._convert(dtype, plan)

    def _has_room(self, dtype: torch.dtype, channels_last: bool) -> bool:
        """Whether the weights can be held in a dtype: not quantised, nor streamed by the host, nor too large."""
        if is_dynamic(self._patcher) or self._dtype not in (None, torch.float32, *HALVES):
            return False
        from_fp32 = self._dtype == torch.float32
        needed_bytes = converted_bytes(self._network, dtype, from_fp32=from_fp32, channels_last=channels_last)
        return bool(needed_bytes < model_management.get_free_memory(HOST))

    def hold_as_placed(self) -> None:
        """Holds weights that others have too in int8, where the model was placed so."""
        placement = placement_of(self._patcher)
        if placement is None or placement.precision != INT8 or in_int8(self._patcher) or is_dynamic(self._patcher):
            return
        self.begin()
        self._conversions.append(hold_in_int8(self._network, placement.device.torch_device))
        self._name(self._dtype)
        note_dtypes(self._network)

    def hold(self, dtype: torch.dtype, plan: CpuPlan | None = None) -> None:
        """Converts the weights, on the host, laid out by the plan."""
        self.begin()
        self._convert(dtype, plan)

    def _convert(self, dtype: torch.dtype, plan: CpuPlan | None) -> None:
        from_fp32 = self._dtype == torch.float32
        self._conversions.append(convert(self._network, dtype, from_fp32=from_fp32, channels_last=_last(plan)))
        self._name(dtype)
        note_dtypes(self._network)

    def restore(self) -> None:
        """Undoes everything since the first `begin`."""
        if self._before is None:
            return
        if not is_lost(self._patcher.model.device or HOST):
            unload(self._patcher)
        for conversion in reversed(self._conversions):
            conversion.undo()
        self._conversions.clear()
        self._name(self._dtype)
        if not is_dynamic(self._patcher):  # its weights are mapped as the file has them
            note_dtypes(self._network)
        self._patcher.object_patches, self._patcher.force_cast_weights = self._before
        self._patcher.patches_uuid = uuid.uuid4()
        self._before = None

    def _name(self, dtype: torch.dtype | None) -> None:
        """Tells the host's code, which asks the network or the patcher rather than the weights."""
        if "dtype" in vars(self._network):
            self._network.dtype = dtype
        self._patcher.size = 0  # measured again when next asked for


def _last(plan: CpuPlan | None) -> bool:
    """Whether convolutions are laid out channels last."""
    return plan is not None and plan.channels_last
