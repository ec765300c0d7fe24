"""Finding the same GPU in torch, in Sysman and in the kernel: by UUID or PCI address, never by position."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from ..machine.devices import INTEL_VENDOR, Device
from .readings import Unavailable

_INTEL_UUID = re.compile(r"8680([0-9a-f]{4})[0-9a-f]{4}([0-9a-f]{4})([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})")


@dataclasses.dataclass(frozen=True)
class Card:
    """One GPU as the Linux kernel shows it."""

    path: Path
    """/sys/class/drm/cardN"""
    pci_address: str
    pci_device_id: int
    driver: str
    """"i915" or "xe"."""


def plain_uuid(uuid: str) -> str:
    """A UUID as 32 lower-case digits, however it was written."""
    return uuid.replace("-", "").lower()


def pci_address_of(device: Device) -> str:
    """ "0000:03:00.0", from the device's own properties or from its UUID; empty where neither tells.

    Intel's driver builds its UUIDs of vendor, device, revision, PCI domain, bus, device and function, two bytes each
    in little-endian order for the first four and one byte each for the rest: 8680a056-0800-0000-0300-... is an A770
    at 0000:03:00.0 (intel/compute-runtime, `generateUuidFromPciBusInfo`).
    """
    if device.pci_address:
        return device.pci_address
    match = _INTEL_UUID.match(plain_uuid(device.uuid))
    if match is None:
        return ""
    device_id, domain = (int(text[2:] + text[:2], 16) for text in match.group(1, 2))
    if device.pci_device_id not in (None, device_id):
        return ""
    bus, slot, function = (int(text, 16) for text in match.group(3, 4, 5))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def intel_cards(sysfs: Path = Path("/sys/class/drm")) -> list[Card]:
    """Every Intel GPU that has a driver; empty where there is no sysfs."""
    cards = []
    for path in sorted(sysfs.glob("card*")):
        device = path / "device"
        vendor = device / "vendor"
        if path.name[4:].isdigit() and vendor.is_file() and vendor.read_text().strip() == INTEL_VENDOR:
            identity = dict(line.split("=", 1) for line in (device / "uevent").read_text().splitlines() if "=" in line)
            pci_device_id = int((device / "device").read_text().strip(), 16)
            cards.append(Card(path, identity.get("PCI_SLOT_NAME", ""), pci_device_id, identity.get("DRIVER", "")))
    return cards


def card_of(device: Device, cards: list[Card]) -> Card:
    """The kernel's card of a device: by PCI address, else by a PCI device id that only one card has.

    Raises:
        Unavailable: no card matches, or several do.
    """
    address = pci_address_of(device)
    if address:
        matches = [card for card in cards if card.pci_address == address]
    else:
        matches = [card for card in cards if card.pci_device_id == device.pci_device_id]
    if len(matches) != 1:
        raise Unavailable(f"{len(matches)} of the kernel's cards match {device.id}")
    return matches[0]
