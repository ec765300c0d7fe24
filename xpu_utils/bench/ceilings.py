"""What the hardware cannot exceed, where that is published or can be read."""

from __future__ import annotations

from pathlib import Path

from ..machine.devices import Device
from ..machine.gpus import SYSFS, find_gpus
from ..machine.profiles import Architecture
from ..telemetry.pci import gpu_of, pci_address_of
from ..telemetry.readings import Unavailable

MATRIX_OPERATIONS_PER_CLOCK = {
    Architecture.ALCHEMIST: 128,
    Architecture.BATTLEMAGE: 256,
    Architecture.LUNAR_LAKE: 256,
    Architecture.PANTHER_LAKE: 256,
    Architecture.DATA_CENTER_MAX: 512,
}
"""16-bit operations of the matrix unit beside one vector engine. Check: half of Intel's published 8-bit TOPS, such as
233 for the B580 (160 engines, 256, 2.85 GHz) and 67 for the Arc 140V (64, 256, 2.05 GHz)."""

VECTOR_OPERATIONS_PER_CLOCK = {
    Architecture.XE_LP: 16,
    Architecture.METEOR_LAKE: 16,
    Architecture.ALCHEMIST: 16,
    Architecture.BATTLEMAGE: 32,
    Architecture.LUNAR_LAKE: 32,
    Architecture.PANTHER_LAKE: 32,
    Architecture.DATA_CENTER_MAX: 32,
}
"""32-bit operations of one vector engine: two for each of its 8 or 16 lanes. Check: Intel's published 17.2 TFLOPS for
the A770 (512 engines, 2.1 GHz) and 52 for the Max 1550 (1024 engines, 1.6 GHz)."""

_CLOCK_FILES = ("device/tile0/gt0/freq0/rp0_freq", "gt/gt0/rps_RP0_freq_mhz", "gt_RP0_freq_mhz")


def compute_flops(device: Device, precision: str, *, sysfs: Path = SYSFS) -> tuple[float, str] | None:
    """Most operations per second in a precision, and what that was worked out from; None where a factor is unknown.

    For a CPU nothing is known: neither its clock under vector load nor the number of its multipliers can be read.
    """
    table = VECTOR_OPERATIONS_PER_CLOCK if precision == "fp32" else MATRIX_OPERATIONS_PER_CLOCK
    per_clock = table.get(device.architecture)
    clock_mhz = _highest_clock_mhz(device, sysfs)
    if per_clock is None or clock_mhz is None or not device.compute_units:
        return None
    source = f"{device.compute_units} vector engines x {per_clock} x {clock_mhz:.0f} MHz"
    return device.compute_units * per_clock * clock_mhz * 1e6, source


def _highest_clock_mhz(device: Device, sysfs: Path) -> float | None:
    try:
        _, card = gpu_of(device, find_gpus(sysfs))
    except Unavailable:
        return None
    files = [card / name for name in _CLOCK_FILES if (card / name).is_file()]
    return float(files[0].read_text()) if files else None


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
