"""The Intel GPUs of this machine, used or not, with or without a driver: as the PCI bus or Windows shows them."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from .profiles import INTEL_VENDOR, PROFILES, Architecture, architecture_of
from .windows import find_adapters

SYSFS = Path("/sys")
DRIVERS = ("i915", "xe")
"""The kernel's own for Intel GPUs."""
_DISPLAY = 0x03
"""The PCI class of graphics."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """An Intel GPU."""

    pci_device_id: int
    driver: str
    """"i915", "xe", "vfio-pci", on Windows the version of Intel's driver, or empty."""
    largest_bar_bytes: int
    """Largest memory window: all of the card's memory with Resizable BAR, 256 MiB without; 0 where nothing tells."""
    integrated: bool
    pci_address: str = ""
    """"0000:03:00.0"; empty on Windows."""
    card: Path | None = None
    """Where the driver shows it: .../drm/cardN."""
    render_node: str = ""
    """"renderD128"; empty where its driver made none."""

    @property
    def architecture(self) -> Architecture:
        return architecture_of(self.pci_device_id, "")

    def __str__(self) -> str:
        place = self.render_node or self.pci_address
        return f"Intel GPU {self.pci_device_id:#06x}" + (f" ({place})" if place else "")


def find_gpus(sysfs: Path = SYSFS) -> tuple[Gpu, ...]:
    """Every Intel GPU, in the order of their addresses. Reads only; takes a second on Windows.

    A virtual function (SR-IOV) that i915 or xe does not drive is a virtual machine's: no GPU of this one.

    Args:
        sysfs: /sys, or a recorded one.
    """
    if sys.platform == "win32":
        return _of_windows()
    found = (
        (folder, _gpu(folder))
        for folder in sorted((sysfs / "bus" / "pci" / "devices").glob("*"))
        if _number(folder / "vendor") == INTEL_VENDOR and _number(folder / "class") >> 16 == _DISPLAY
    )
    return tuple(gpu for folder, gpu in found if gpu.driver in DRIVERS or not os.path.lexists(folder / "physfn"))


def _gpu(folder: Path) -> Gpu:
    cards = [path for path in sorted((folder / "drm").glob("card*")) if path.name[4:].isdigit()]
    nodes = sorted(path.name for path in (folder / "drm").glob("renderD*"))
    try:
        driver = os.path.basename(os.readlink(folder / "driver"))
    except OSError:
        driver = ""
    return Gpu(
        pci_device_id=_number(folder / "device"),
        driver=driver,
        largest_bar_bytes=_largest_bar_bytes(folder / "resource"),
        integrated=":00:02." in folder.name,  # where Intel's processors have theirs
        pci_address=folder.name,
        card=cards[0] if cards else None,
        render_node=nodes[0] if nodes else "",
    )


def _of_windows() -> tuple[Gpu, ...]:
    return tuple(
        Gpu(
            pci_device_id=adapter.pci_device_id,
            driver=adapter.driver,
            largest_bar_bytes=0,
            integrated=PROFILES[architecture_of(adapter.pci_device_id, "")].integrated,
        )
        for adapter in find_adapters()
    )


def _number(file: Path) -> int:
    """A hexadecimal number of sysfs; 0 where there is none."""
    try:
        return int(file.read_text(encoding="ascii"), 16)
    except (OSError, ValueError):
        return 0


def _largest_bar_bytes(resource: Path) -> int:
    """Of sysfs' `resource`: start, end and flags of each window in hexadecimal; 0 where it cannot be read."""
    sizes = [0]
    try:
        for line in resource.read_text(encoding="ascii").splitlines():
            start, end, _ = (int(number, 16) for number in line.split())
            sizes.append(end - start + 1 if end else 0)
    except (OSError, ValueError):
        return 0
    return max(sizes)
