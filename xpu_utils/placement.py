"""Where a part of the work was asked to run, where it runs, and why they differ."""

from __future__ import annotations

import dataclasses
import re

from .choice import AUTO
from .machine.devices import Device, Inventory
from .precision import check_precision

_DEVICE_NAME = re.compile(r"[a-z]{1,16}(:[0-9]{1,3})?")


@dataclasses.dataclass(frozen=True)
class Placement:
    """A requested device, the effective one, and the precision the work runs in."""

    requested: str
    """The device string of the workflow: "auto", "xpu:1", "cpu"."""
    device: Device
    """The effective device."""
    precision: str
    """"auto" (the host decides), "fp32", "bf16", "fp16" or "int8"."""
    reason: str = ""
    """Why something differs from what was asked for; empty where nothing does."""
    notes: tuple[str, ...] = ()
    """What a user may like to know although nothing differs."""
    resident: str = AUTO
    """How much of a MODEL's weights stays on the device, in the user's words."""
    carried_over: bool = False
    """Whether the work came here after another device failed: what was set up for that one is not right here."""
    reference: bool = False
    """Whether fp32 was asked for: then the CPU, too, gives what stock ComfyUI gives there, bit for bit."""

    @property
    def differs(self) -> bool:
        return bool(self.reason)

    def because(self, reason: str) -> Placement:
        """The placement with one more reason; an empty one changes nothing."""
        return dataclasses.replace(self, reason="; ".join(filter(None, (self.reason, reason))))

    def noting(self, note: str) -> Placement:
        """The placement with one more note; an empty one changes nothing."""
        return dataclasses.replace(self, notes=(*self.notes, note)) if note else self

    def moved(self, device: Device, why: str) -> Placement:
        """Work that goes on elsewhere after its device failed."""
        return dataclasses.replace(self, device=device, reason=why, notes=(), carried_over=True)

    def led_by(self, argument: str, device: Device) -> Placement:
        """What an argument of ComfyUI's start makes of it: its device for "auto"; a node's own choice wins, noted."""
        if self.device == device:
            return self
        if self.requested != AUTO:
            return self.noting(f"{argument} is not followed, as {self.requested} was chosen here")
        return dataclasses.replace(self, device=device, notes=()).because(f"ComfyUI was started with {argument}")

    def in_fp32(self, why: str) -> Placement:
        """Work that is repeated in fp32 where it is; what it differs in already stays the reason."""
        return dataclasses.replace(self, precision="fp32", reason=self.reason or why)

    def __str__(self) -> str:
        line = f"{self.device.id} ({self.device.name}), {self.precision}"
        if not self.differs:
            return line
        return (
            f"{line}; {self.reason}" if self.requested == AUTO else f"{line}; asked for {self.requested}: {self.reason}"
        )


def place(requested: str, inventory: Inventory, *, precision: str = AUTO) -> Placement:
    """Decides the effective device for a requested one: a device this machine lacks becomes the best it has.

    Raises:
        ValueError: the string has not the form of a device name, or there is no such precision.
    """
    check_precision(precision)
    best, preferred = inventory.best, preferred_because(inventory.best, inventory)
    if requested == AUTO:
        return Placement(requested, best, precision).noting(preferred and f"{best.id} was taken: {preferred}")
    check_device_name(requested)
    device = inventory.find(requested)
    if device is not None:
        return Placement(requested, device, precision)
    using = f"using {best.id}" + (preferred and f" ({preferred})")
    known = next((entry.why for entry in inventory.rejected if entry.what == requested), None)
    if known:
        return Placement(requested, best, precision, f"{requested} cannot be used ({known}), {using}")
    kind = next((f" ({entry.why})" for entry in inventory.rejected if entry.what == requested.split(":")[0]), "")
    return Placement(requested, best, precision, f"{requested} is not on this machine{kind}, {using}")


def preferred_because(device: Device, inventory: Inventory) -> str:
    """Why a device comes before the integrated GPUs; empty where it is one, or the CPU, or there is none."""
    integrated = [other.id for other in inventory.accelerators if other.integrated]
    if device.integrated or device.type == "cpu" or not integrated:
        return ""
    return f"it has memory of its own, unlike {' and '.join(integrated)}"


def check_device_name(name: object) -> None:
    """Accepts "auto", "cpu", "xpu", "xpu:1" and the like.

    Raises:
        ValueError: anything else, in a sentence that says what is accepted.
    """
    if not (isinstance(name, str) and _DEVICE_NAME.fullmatch(name)):
        raise ValueError(f"device: {str(name)[:40]!r} is not a device name, use auto, cpu or a name such as xpu:0.")
