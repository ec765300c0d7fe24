"""A healthy machine for the doctor, and parts of others."""

from __future__ import annotations

import dataclasses
from typing import Any

from xpu_utils.doctor.machine import Host, Machine, RenderNode, TorchBuild
from xpu_utils.machine.devices import Inventory
from xpu_utils.machine.gpus import Gpu
from xpu_utils.machine.profiles import Architecture

from .recorded import GIB, b580, xpu


def machine(**changes: Any) -> Machine:
    """A Debian machine with a B580 where all is well."""
    facts: dict[str, Any] = {
        "system": "debian",
        "kernel": "6.12.48-amd64",
        "gpus": (Gpu(0xE20B, "xe", 12 * GIB, integrated=False),),
        "render_nodes": (RenderNode("renderD128", "render", usable=True),),
        "loader": "libze_loader.so.1",
        "level_zero_driver": "libze_intel_gpu.so.1",
        "torch_build": torch_build(),
        "packages": {"torch": "2.13.0+xpu", "torchvision": "0.29.0+xpu", "pyzes": "0.1.3"},
        "pyzes_problem": "",
        "environment": {},
        "inventory": inventory(b580()),
        "ram_bytes": 32 * GIB,
        "free_disk_bytes": 100 * GIB,
        "host": host(),
        "compiler": "/usr/bin/g++",
    }
    return Machine(**{**facts, **changes})


def torch_build(**changes: Any) -> TorchBuild:
    return dataclasses.replace(
        TorchBuild("2.13.0+xpu", xpu=True, cuda=False, mkl=True, onednn=True, cpu_capability="AVX2"), **changes
    )


def host(**changes: Any) -> Host:
    return dataclasses.replace(Host(cpu_argument=False, device_type="xpu"), **changes)


def inventory(*devices: Any) -> Inventory:
    cpu = xpu(type="cpu", index=None, pci_device_id=None, architecture=Architecture.UNKNOWN)
    return Inventory(devices=(*devices, cpu), rejected=())


NOTHING = inventory()
CPU_BUILD = torch_build(version="2.13.0+cpu", xpu=False)
TWO_GPUS = (Gpu(0xE20B, "xe", 12 * GIB, integrated=False), Gpu(0xA780, "i915", 256 << 20, integrated=True))
WINDOWS: dict[str, Any] = {
    "system": "windows",
    "kernel": "11",
    "gpus": (Gpu(0xE20B, "32.0.101.6078", 0, integrated=False),),
    "render_nodes": (),
    "loader": "ze_loader.dll",
    "level_zero_driver": "",
}
WSL: dict[str, Any] = {
    "kernel": "6.6.87.2-microsoft-standard-WSL2",
    "gpus": (),
    "render_nodes": (),
    "dxg": True,
    "dxcore": "libdxcore.so",
    "inventory": NOTHING,
}
B580_ON_THE_BUS = Gpu(0xE20B, "xe", 12 * GIB, integrated=False, pci_address="0000:03:00.0")
WEDGED = "xe 0000:03:00.0: [drm] *ERROR* CRITICAL: Xe has declared device 0000:03:00.0 as wedged."
UHD_630 = Gpu(0x3E92, "i915", 256 << 20, integrated=True)
A770 = Gpu(0x56A0, "i915", 16 * GIB, integrated=False)
