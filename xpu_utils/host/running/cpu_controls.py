"""ControlNets that compute on the CPU because the device they were on failed."""

from __future__ import annotations

from typing import Any

from ...choice import AUTO
from ...decision import Kind, Subject
from ...placement import Placement
from ..placing.apply import apply
from ..placing.deciding import decide
from ..placing.formats import WorkFormat
from ..placing.placed import placement_of
from ..recovery.moving import cpu
from ..target import HOST


class ControlsOnCpu:
    """The CPU engine on a run's ControlNets, until the run ends."""

    def __init__(self) -> None:
        self._formats: dict[int, WorkFormat] = {}
        """By the identity of the weights, which several control objects may share."""
        self._before: dict[int, tuple[Any, dict[str, Any]]] = {}
        """Control objects and how they were, by identity: conditions may share one, which is used again."""

    def use(self, control: Any) -> None:
        """Has a control object that came to the CPU compute by its plan; one that was placed there does already."""
        patcher = getattr(control, "control_model_wrapped", None)
        if patcher is None or patcher.load_device != HOST:
            return
        placement = placement_of(patcher) or Placement(AUTO, cpu(), AUTO, carried_over=True)
        if not placement.carried_over:
            return
        network = control.control_model
        decision = decide(placement, Subject(Kind.CONTROLNET, control.manual_cast_dtype or network.dtype))
        if id(network) not in self._formats:
            self._formats[id(network)] = WorkFormat(patcher, network)
            self._formats[id(network)].hold_where_room(decision.dtype, decision.plan)
        before = {name: getattr(control, name) for name in ("load_device", "manual_cast_dtype")}
        self._before.setdefault(id(control), (control, before))
        apply(decision, control)

    def restore(self) -> None:
        """Leaves the weights and the control objects as they were."""
        for control, before in self._before.values():
            vars(control).update(before)
        for work in self._formats.values():
            work.restore()
        self._before.clear()
        self._formats.clear()
