"""The devices of this machine: what can be used, what cannot, and why."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from .profiles import Architecture, Profile, architecture_of, profile_of

INTEL_VENDOR = "0x8086"


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

    @property
    def id(self) -> str:
        """The name users and torch call it by: "xpu:0", "cpu"."""
        return self.type if self.index is None else f"{self.type}:{self.index}"

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.id)

    @property
    def profile(self) -> Profile:
        return profile_of(self.architecture)


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A device, or a whole kind of device, that cannot be used."""

    what: str
    why: str
    fix: str


@dataclasses.dataclass(frozen=True)
class Inventory:
    """All devices, best first (accelerators, then the CPU), and the ones rejected."""

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


def find_devices(
    environment: Mapping[str, str] | None = None, dri: Path = Path("/dev/dri"), sysfs: Path = Path("/sys/class/drm")
) -> Inventory:
    """Lists the devices PyTorch can use here, XPUs first, the CPU last, and why others cannot be.

    Allocates nothing on any device. The arguments exist so that a recorded machine can be examined.
    """
    environment = os.environ if environment is None else environment
    accelerators = [_accelerator(kind, index) for kind, count in _accelerator_counts() for index in range(count)]
    return Inventory(
        devices=(*accelerators, _cpu()), rejected=tuple(_rejections(accelerators, environment, dri, sysfs))
    )


def _accelerator_counts() -> list[tuple[str, int]]:
    """(type, count) of every accelerator PyTorch can use, XPU first."""
    kinds = ["xpu"]
    current = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if current is not None and current.type not in kinds:
        kinds.append(current.type)
    counts = []
    for kind in kinds:
        module = getattr(torch, kind, None)
        # device_count() before anything else: Arc A needs Sysman initialised first (pytorch #185198).
        count = module.device_count() if module is not None and hasattr(module, "device_count") else 0
        if count and module.is_available():  # type: ignore[union-attr]
            counts.append((kind, count))
    return counts


def _accelerator(kind: str, index: int) -> Device:
    """Reads a device's properties, each with a default: torch builds differ in what they report."""
    module = getattr(torch, kind)
    properties = module.get_device_properties(index)
    name = str(getattr(properties, "name", f"{kind}:{index}"))
    pci_device_id = _integer(getattr(properties, "device_id", None))
    architecture = architecture_of(pci_device_id, name) if kind == "xpu" else Architecture.UNKNOWN
    profile = profile_of(architecture)
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
    )


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _pci_address(properties: Any) -> str:
    """ "0000:03:00.0" where the build reports the parts, else empty."""
    parts = [getattr(properties, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if any(part is None for part in parts):
        return ""
    return f"{parts[0]:04x}:{parts[1]:02x}:{parts[2]:02x}.0"


def _cpu() -> Device:
    return Device(
        type="cpu",
        index=None,
        name=platform.processor() or platform.machine(),
        architecture=Architecture.UNKNOWN,
        total_bytes=psutil.virtual_memory().total,
        integrated=True,
        fp16=True,
        bf16=True,
        fp64=True,
        driver_version="",
        uuid="",
        pci_device_id=None,
        pci_address="",
        compute_units=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        single_allocation_limit_bytes=None,
    )


def _rejections(accelerators: list[Device], environment: Mapping[str, str], dri: Path, sysfs: Path) -> list[Rejection]:
    """One rejection for each Intel GPU that the kernel knows and PyTorch does not show, or one for all."""
    xpus = [device for device in accelerators if device.type == "xpu"]
    gpus = intel_gpus(sysfs)
    visible = [device.pci_device_id for device in xpus]
    hidden = []
    for node, pci_id in gpus:
        if pci_id in visible:
            visible.remove(pci_id)
        elif None in visible:  # a build that does not report ids: one visible device accounts for one GPU
            visible.remove(None)
        else:
            hidden.append(f"Intel GPU {pci_id:#06x} ({node})")
    if not hidden and not xpus:
        hidden = ["xpu"]
    if not hidden:
        return []
    why, fix = _xpu_obstacle(environment, dri, bool(gpus))
    return [Rejection(what=name, why=why, fix=fix) for name in hidden]


def _xpu_obstacle(environment: Mapping[str, str], dri: Path, gpu_present: bool) -> tuple[str, str]:
    if not getattr(torch.version, "xpu", None) and not torch.xpu._is_compiled():
        return (
            f"this PyTorch ({torch.__version__}) is not an XPU build",
            "install the XPU build of PyTorch (its index is .../whl/xpu)",
        )
    selector = environment.get("ONEAPI_DEVICE_SELECTOR", "")
    if selector and "level_zero" not in selector and "*:" not in selector:
        return (
            f"ONEAPI_DEVICE_SELECTOR={selector} hides every Level Zero device, the only kind PyTorch takes",
            "unset ONEAPI_DEVICE_SELECTOR or set it to level_zero:gpu",
        )
    if environment.get("ZE_AFFINITY_MASK"):
        return (
            f"ZE_AFFINITY_MASK={environment['ZE_AFFINITY_MASK']} hides it",
            "unset ZE_AFFINITY_MASK or name the device in it",
        )
    nodes = sorted(dri.glob("renderD*")) if dri.is_dir() else []
    blocked = [node for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if blocked:
        return (
            f"no permission on {blocked[0]}",
            "add your user to the groups render and video, then log in again",
        )
    if not gpu_present and not nodes:
        return ("no GPU driver is loaded: the kernel shows no render device", "load the i915 or xe kernel driver")
    return (
        "the Level Zero driver reports no device",
        "install Intel's compute runtime (intel-compute-runtime / intel-opencl-icd and libze1)",
    )


def intel_gpus(sysfs: Path = Path("/sys/class/drm")) -> list[tuple[str, int]]:
    """(render node name, PCI device id) of every Intel GPU the Linux kernel knows; empty elsewhere."""
    found = []
    for node in sorted(sysfs.glob("renderD*")):
        vendor, device = node / "device" / "vendor", node / "device" / "device"
        if vendor.is_file() and vendor.read_text().strip() == INTEL_VENDOR:
            found.append((node.name, int(device.read_text().strip(), 16)))
    return found
