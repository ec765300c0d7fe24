"""Finding the same GPU in torch, in Sysman and in the kernel: by UUID or PCI address, never by position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..machine.devices import Device
from ..machine.gpus import Gpu
from .readings import Unavailable

_INTEL_UUID = re.compile(r"8680([0-9a-f]{4})[0-9a-f]{4}([0-9a-f]{4})([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})")


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


def gpu_of(device: Device, gpus: Sequence[Gpu]) -> tuple[Gpu, Path]:
    """The machine's GPU that a device is, by PCI address, else by a PCI device id that only one has; and its card.

    Raises:
        Unavailable: none matches, or several do, or its driver shows no card.
    """
    address = pci_address_of(device)
    if address:
        matches = [gpu for gpu in gpus if gpu.pci_address == address]
    else:
        matches = [gpu for gpu in gpus if gpu.pci_device_id == device.pci_device_id]
    if len(matches) != 1 or matches[0].card is None:
        raise Unavailable(f"{len(matches)} of the kernel's GPUs match {device.id}")
    return matches[0], matches[0].card
