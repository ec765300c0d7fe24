"""What the hardware cannot exceed, where that is published or can be read."""

from __future__ import annotations

from pathlib import Path

from ..machine.devices import Device
from ..machine.gpus import SYSFS, find_gpus
from ..telemetry.pci import gpu_of, pci_address_of
from ..telemetry.readings import Unavailable

_CLOCK_FILES = ("device/tile0/gt0/freq0/rp0_freq", "gt/gt0/rps_RP0_freq_mhz", "gt_RP0_freq_mhz")


def compute_flops(device: Device, precision: str, *, sysfs: Path = SYSFS) -> tuple[float, str] | None:
    """Most operations per second in a precision, and what that was worked out from; None where a factor is unknown.

    For a CPU nothing is known: neither its clock under vector load nor the number of its multipliers can be read.
    """
    profile = device.profile
    per_clock = profile.vector_operations_per_clock if precision == "fp32" else profile.matrix_operations_per_clock
    clock_mhz = _highest_clock_mhz(device, sysfs)
    if per_clock is None or clock_mhz is None or not device.compute_units:
        return None
    source = f"{device.compute_units} vector engines x {per_clock} x {clock_mhz:.0f} MHz"
    return device.compute_units * per_clock * clock_mhz * 1e6, source


def _highest_clock_mhz(device: Device, sysfs: Path) -> float | None:
    try:
        _, card = gpu_of(device, find_gpus(sysfs))
        files = [card / name for name in _CLOCK_FILES if (card / name).is_file()]
        return float(files[0].read_text()) if files else None
    except (Unavailable, OSError, ValueError):
        return None


def link_bytes_per_s(device: Device, *, pci: Path = Path("/sys/bus/pci/devices")) -> tuple[float, str] | None:
    """Most bytes per second that PCI Express carries one way, and its kind; None where there is none or nothing tells.

    What counts is where the card meets the root port: the GPU's own link lies inside the card, and on Arc it claims
    2.5 GT/s. Of the speeds the highest is taken, as an idle link is slowed down.
    """
    address = pci_address_of(device)
    if device.integrated or not address:
        return None
    gpu = (pci / address).resolve()
    ends = [folder for folder in (gpu, *gpu.parents) if (folder / "max_link_speed").is_file()][-2:]
    try:
        gigatransfers = min(float((end / "max_link_speed").read_text().split()[0]) for end in ends)
        lanes = int((ends[0] / "current_link_width").read_text())
    except (OSError, ValueError, IndexError):  # no link, or one of which the kernel says "Unknown"
        return None
    payload = 0.8 if gigatransfers <= 5 else 128 / 130  # 8 of 10 bits before generation 3
    return gigatransfers * 1e9 / 8 * payload * lanes, f"PCIe {gigatransfers:g} GT/s x{lanes}"
