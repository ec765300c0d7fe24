"""The devices of this machine: what can be used, what cannot, and why."""

from __future__ import annotations

import dataclasses
import logging
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from ..recovery.faults import first_line
from .host_memory import read_host_memory
from .pip import install_torch
from .profiles import OVERRIDES_VARIABLE, PROFILES, Architecture, Profile, architecture_of, known_profiles, pci_id_in

TORCH_NEEDED = "2.7"
"""The oldest PyTorch that users are told of. What is done depends on what theirs has."""


@dataclasses.dataclass(frozen=True)
class Device:
    """One place work can run."""

    type: str
    """torch device type: "xpu", "cuda", "cpu", ..."""
    index: int | None
    """Position among the devices of its type; None for the CPU."""
    name: str
    architecture: Architecture
    total_bytes: int
    integrated: bool
    fp16: bool
    bf16: bool
    fp64: bool
    driver_version: str
    uuid: str
    pci_device_id: int | None
    pci_address: str
    compute_units: int
    single_allocation_limit_bytes: int | None
    profile: Profile

    @property
    def id(self) -> str:
        """The name users and torch call it by: "xpu:0", "cpu"."""
        return self.type if self.index is None else f"{self.type}:{self.index}"

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.id)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A device, or a whole kind of device, that cannot be used."""

    what: str
    why: str
    fix: str


@dataclasses.dataclass(frozen=True)
class Inventory:
    """All devices, best first (cards of their own, integrated GPUs, then the CPU), and the ones rejected."""

    devices: tuple[Device, ...]
    rejected: tuple[Rejection, ...]

    @property
    def accelerators(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.type != "cpu")

    @property
    def best(self) -> Device:
        """An XPU if there is one, else another accelerator, else the CPU."""
        return self.devices[0]

    def find(self, device_id: str) -> Device | None:
        """The device of that id ("xpu:1"; "xpu" means "xpu:0"), or None."""
        wanted = device_id if ":" in device_id or device_id == "cpu" else f"{device_id}:0"
        return next((device for device in self.devices if device.id == wanted), None)


def torch_problem() -> str:
    """Why this PyTorch cannot be worked with, and what to do; empty where it can."""
    if hasattr(torch, "accelerator"):
        return ""
    return f"PyTorch {torch.__version__} is too old, XPU Nodes needs {TORCH_NEEDED} or newer: {install_torch()}"


def find_devices() -> Inventory:
    """Lists the devices PyTorch can use here, the best first, and those that it shows and cannot ask.

    Allocates nothing on any device.
    """
    profiles, problem = known_profiles()
    accelerators, rejected = _accelerators(profiles)
    if problem:
        rejected.append(Rejection(OVERRIDES_VARIABLE, f"{problem}, no value is overridden", "mend or unset it"))
        logging.warning("XPU Nodes: %s: %s; mend or unset it.", OVERRIDES_VARIABLE, rejected[-1].why)
    return Inventory(devices=(*accelerators, cpu_device(profiles)), rejected=tuple(rejected))


def _accelerators(profiles: Mapping[Architecture, Profile]) -> tuple[list[Device], list[Rejection]]:
    """Every accelerator PyTorch can use, XPUs and cards of their own first, and those that it shows and cannot ask."""
    current = torch.accelerator.current_accelerator() if hasattr(torch, "accelerator") else None
    devices: list[Device] = []
    failed: list[Rejection] = []
    for kind in dict.fromkeys(["xpu", *([] if current is None else [current.type])]):
        try:
            count = _count(kind)
        except RuntimeError as error:
            failed.append(_failed(kind, error))
            continue
        found = []
        for index in range(count):
            try:
                found.append(_accelerator(kind, index, profiles))
            except (RuntimeError, AssertionError) as error:  # PyTorch asserts that the index is valid
                failed.append(_failed(f"{kind}:{index}", error))
        devices += sorted(found, key=lambda device: device.integrated)
    return devices, failed


def _failed(what: str, error: Exception) -> Rejection:
    return Rejection(what, f"its driver failed: {first_line(error)}", "restart the machine, or update the driver")


def _count(kind: str) -> int:
    """How many devices of a kind PyTorch can use."""
    module = getattr(torch, kind, None)
    # device_count() before anything else: Arc A needs Sysman initialised first (pytorch #185198).
    count = module.device_count() if module is not None and hasattr(module, "device_count") else 0
    available = getattr(module, "is_available", lambda: True)
    return count if count and available() else 0


def _accelerator(kind: str, index: int, profiles: Mapping[Architecture, Profile]) -> Device:
    """Reads a device's properties, each with a default: torch builds differ in what they report."""
    module = getattr(torch, kind)
    properties = getattr(module, "get_device_properties", lambda index: None)(index)
    name = str(getattr(properties, "name", f"{kind}:{index}"))
    pci_device_id = _integer(getattr(properties, "device_id", pci_id_in(name)))
    architecture = architecture_of(pci_device_id, name) if kind == "xpu" else Architecture.UNKNOWN
    profile = profiles[architecture]
    total_bytes = int(getattr(properties, "total_memory", 0))
    bf16_supported = getattr(module, "is_bf16_supported", lambda: "bf16" in profile.compute_dtypes)
    return Device(
        type=kind,
        index=index,
        name=name,
        architecture=architecture,
        total_bytes=total_bytes,
        integrated=bool(
            getattr(properties, "is_integrated_gpu", getattr(properties, "is_integrated", profile.integrated))
        ),
        fp16=bool(getattr(properties, "has_fp16", True)),
        bf16=bool(bf16_supported()),
        fp64=bool(getattr(properties, "has_fp64", kind == "cuda" or profile.fp64)),
        driver_version=str(getattr(properties, "driver_version", "")),
        uuid=str(getattr(properties, "uuid", "")),
        pci_device_id=pci_device_id,
        pci_address=_pci_address(properties),
        compute_units=int(getattr(properties, "max_compute_units", getattr(properties, "multi_processor_count", 0))),
        single_allocation_limit_bytes=profile.single_allocation_limit_bytes,
        profile=profile,
    )


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _pci_address(properties: Any) -> str:
    """ "0000:03:00.0" where the build reports the parts, else empty."""
    parts = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if any(part is None for part in parts):
        return ""
    return f"{parts[0]:04x}:{parts[1]:02x}:{parts[2]:02x}.0"


def cpu_device(profiles: Mapping[Architecture, Profile] = PROFILES) -> Device:
    return Device(
        type="cpu",
        index=None,
        name=cpu_name(),
        architecture=Architecture.UNKNOWN,
        total_bytes=read_host_memory().total_bytes,
        integrated=True,
        fp16=True,
        bf16=True,
        fp64=True,
        driver_version="",
        uuid="",
        pci_device_id=None,
        pci_address="",
        compute_units=physical_cores(),
        single_allocation_limit_bytes=None,
        profile=profiles[Architecture.UNKNOWN],
    )


def physical_cores() -> int:
    """The CPU's cores, or what the system counts as such where it does not tell."""
    return psutil.cpu_count(logical=False) or psutil.cpu_count() or 1


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name as its maker gives it, where the system tells.

    Virtual machines often have it without its number ("AMD EPYC"); family and model then tell generations apart.
    """
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""
    told = dict(re.findall(r"^(model name|cpu family|model)\s*:\s*(\S.*?)\s*$", text, re.MULTILINE))
    name = told.get("model name") or platform.processor() or platform.machine()
    numbered = re.search(r"\d", name) or len(told) < 3
    return name if numbered else f"{name} (family {told['cpu family']}, model {told['model']})"
