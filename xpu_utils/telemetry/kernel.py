"""The Linux kernel as a source: sysfs, hwmon and fdinfo of i915 and xe, readable without root.

Files: the kernel's Documentation/ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon and gpu/xe/xe_gt_freq.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import psutil

from ..machine.devices import Device
from ..machine.gpus import SYSFS, find_gpus
from . import fdinfo
from .pci import gpu_of
from .readings import MemoryReading, Rate, Unavailable

_FREQUENCY_FILES = ("device/tile0/gt0/freq0/act_freq", "gt/gt0/rps_act_freq_mhz", "gt_act_freq_mhz")


class KernelSource:
    """One device as the kernel shows it.

    Args:
        device: found by PCI address (or an id that only one card has).
        sysfs: /sys, or a recorded one.
        files: the files that processes hold open on GPUs.

    Raises:
        Unavailable: the kernel shows no such card, as on Windows.
    """

    name = "kernel"

    def __init__(self, device: Device, *, sysfs: Path = SYSFS, files: fdinfo.OpenFiles = fdinfo.OPEN_FILES) -> None:
        self._device = device
        self._gpu, self._card = gpu_of(device, find_gpus(sysfs))
        self._files = files
        self._power = Rate()
        self._engines: dict[tuple[str, str], Rate] = defaultdict(Rate)

    def memory(self) -> MemoryReading:
        """Resident memory of all processes of this user (of all users for root)."""
        clients = self._files.clients(self._gpu.pci_address)
        used_bytes = sum(client.device_bytes for client in clients)
        if self._device.integrated:
            used_bytes += sum(client.system_bytes for client in clients)
            return MemoryReading(psutil.virtual_memory().total, used_bytes, sees_others=True)
        sizes = [int(_number(path)) for path in self._card.glob("device/tile*/physical_vram_size_bytes")]
        return MemoryReading(sum(sizes) or self._device.total_bytes, used_bytes, sees_others=True)

    def engines(self) -> Mapping[str, float] | None:
        """Busy share by engine: the clients' busy time over wall time (i915) or over the engine's cycles (xe)."""
        percent: dict[str, float] = {}
        now_ns = time.monotonic_ns()
        clients = self._files.clients(self._gpu.pci_address)
        gone = {client_id for client_id, _ in self._engines} - {client.client_id for client in clients}
        for key in [key for key in self._engines if key[0] in gone]:
            del self._engines[key]
        for client in clients:
            for engine, busy in client.busy.items():
                rate = self._engines[client.client_id, engine].update(busy, client.clock.get(engine, now_ns))
                if rate is not None:
                    share = 100 * rate / client.capacity.get(engine, 1)
                    percent[engine] = min(100.0, percent.get(engine, 0.0) + share)
        return percent or None

    def temperature(self) -> float:
        """Degrees Celsius of the package (xe: temp2) or of the card (i915: temp1)."""
        for name in ("temp2_input", "temp1_input"):
            for folder in self._hwmon():
                if (folder / name).is_file():
                    return _number(folder / name) / 1000
        raise Unavailable(f"{self._gpu.driver} shows no temperature of this card")

    def power(self) -> float | None:
        """Watts, from the growth of the card's (else the package's) energy counter in microjoules."""
        for name in ("energy1_input", "energy2_input"):
            for folder in self._hwmon():
                if (folder / name).is_file():
                    return self._power.update(_number(folder / name) / 1e6, time.monotonic())
        raise Unavailable(f"{self._gpu.driver} shows no energy counter of this card")

    def frequency(self) -> float:
        """Actual MHz of the main GT."""
        for name in _FREQUENCY_FILES:
            if (self._card / name).is_file():
                return _number(self._card / name)
        raise Unavailable(f"{self._gpu.driver} shows no frequency of this card")

    def _hwmon(self) -> list[Path]:
        """The card's hwmon folders, the whole card's before those of single GTs ("i915_gt0")."""
        folders = (self._card / "device" / "hwmon").glob("hwmon*")
        named = [(folder, (folder / "name").read_text().strip()) for folder in folders]
        return [folder for folder, name in sorted(named, key=lambda entry: ("_gt" in entry[1], entry[0].name))]


def _number(path: Path) -> float:
    try:
        return float(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path.name} cannot be read ({error})") from error
