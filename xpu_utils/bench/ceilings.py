"""What the hardware cannot exceed, where that is published or can be read."""

from __future__ import annotations

from pathlib import Path

from ..devices import Device
from ..profiles import Architecture
from ..telemetry.pci import card_of, intel_cards
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

_CLOCK_FILES = ("device/tile0/gt0/freq0/rp0_freq", "gt/gt0/rps_RP0_freq_mhz", "gt_RP0_freq_mhz")


def matrix_flops(device: Device, *, sysfs: Path = Path("/sys/class/drm")) -> tuple[float, str] | None:
    """Most 16-bit operations per second, and what that was worked out from; None where a factor is unknown."""
    per_clock = MATRIX_OPERATIONS_PER_CLOCK.get(device.architecture)
    clock_mhz = _highest_clock_mhz(device, sysfs)
    if per_clock is None or clock_mhz is None or not device.compute_units:
        return None
    source = f"{device.compute_units} vector engines x {per_clock} x {clock_mhz:.0f} MHz"
    return device.compute_units * per_clock * clock_mhz * 1e6, source


def _highest_clock_mhz(device: Device, sysfs: Path) -> float | None:
    try:
        card = card_of(device, intel_cards(sysfs))
    except Unavailable:
        return None
    files = [card.path / name for name in _CLOCK_FILES if (card.path / name).is_file()]
    return float(files[0].read_text()) if files else None
