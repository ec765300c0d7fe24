"""What is different on broken machines from a healthy one."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from xpu_utils.doctor.findings import State
from xpu_utils.doctor.machine import RenderNode
from xpu_utils.machine.gpus import Gpu
from xpu_utils.machine.last_words import LastWords, Work
from xpu_utils.machine.profiles import Architecture

from .healthy_machine import (
    A770,
    B580_ON_THE_BUS,
    CPU_BUILD,
    NOTHING,
    TWO_GPUS,
    UHD_630,
    WEDGED,
    WINDOWS,
    WSL,
    host,
    inventory,
    torch_build,
)
from .recorded import GIB, xpu

BROKEN: dict[str, tuple[dict[str, Any], State, str, str]] = {
    # code, or code and circumstance: (what is different from the healthy machine, state, part of the evidence, part of
    # a fix)
    "kernel-driver-missing": (
        {"gpus": (Gpu(0xE20B, "", 0, integrated=False),), "inventory": NOTHING},
        State.ERROR,
        "kernel 6.12.48",
        "firmware",
    ),
    "kernel-driver-other": (
        {"gpus": (Gpu(0xE20B, "vfio-pci", 0, integrated=False),), "inventory": NOTHING},
        State.ERROR,
        "not i915 or xe",
        "vfio-pci.ids",
    ),
    "kernel-driver-guest": (
        {"gpus": (*TWO_GPUS[:1], Gpu(0x56A0, "vfio-pci", 0, integrated=False))},
        State.NOTE,
        "vfio-pci holds it",
        "Nothing is wrong",
    ),
    "kernel-driver-old": (
        {"gpus": (Gpu(0xE20B, "i915", 0, integrated=False),)},
        State.ERROR,
        "kernel 6.12.48",
        "full-upgrade",
    ),
    "no-gpu": ({"gpus": (), "inventory": NOTHING}, State.NOTE, "6.12.48", "pass the GPU through"),
    "gpu-too-old": (
        {"gpus": (UHD_630,), "render_nodes": (), "inventory": NOTHING},
        State.NOTE,
        "Xe",
        "Choose the device cpu",
    ),
    "wsl-no-gpu": ({**WSL, "dxg": False}, State.ERROR, "no /dev/dxg", "wsl --update, then wsl --shutdown"),
    "loader-missing, WSL": ({**WSL, "loader": ""}, State.ERROR, "libze_loader", "libze1"),
    "runtime-missing, WSL": (
        {**WSL, "level_zero_driver": ""},
        State.ERROR,
        "libze_intel_gpu is not",
        "libze-intel-gpu1",
    ),
    "wsl-library": ({**WSL, "dxcore": ""}, State.ERROR, "libdxcore", "LD_LIBRARY_PATH=/usr/lib/wsl/lib"),
    "device-unknown-to-runtime, WSL": (
        WSL,
        State.ERROR,
        "/dev/dxg",
        "In Windows install the newest Intel graphics driver",
    ),
    "gpu-stopped": (
        {"given_up": WEDGED, "gpus": (B580_ON_THE_BUS,), "inventory": NOTHING},
        State.ERROR,
        "as wedged",
        "Restart the machine",
    ),
    "adapter-broken": (
        {"adapter_problem": "undefined symbol: zeDeviceGetRootDevice", "inventory": NOTHING},
        State.ERROR,
        "zeDeviceGetRootDevice",
        "libze1",
    ),
    "oneapi-sourced": (
        {"environment": {"ONEAPI_ROOT": "/opt/intel/oneapi"}},
        State.NOTE,
        "ONEAPI_ROOT=/opt/intel/oneapi",
        "setvars.sh was not run",
    ),
    "oneapi-sourced, no device": (
        {"environment": {"SETVARS_COMPLETED": "1"}, "inventory": NOTHING},
        State.WARNING,
        "SETVARS_COMPLETED=1",
        "setvars.sh was not run",
    ),
    "compiler-missing": ({"compiler": ""}, State.NOTE, "none on the PATH or in CXX", "sudo apt install g++"),
    "kernel-cache-off": (
        {"environment": {"NEO_CACHE_PERSISTENT": "0"}},
        State.NOTE,
        "NEO_CACHE_PERSISTENT=0",
        "unset NEO_CACHE_PERSISTENT",
    ),
    "device-unofficial": (
        {"inventory": inventory(xpu(name="Intel(R) Iris(R) Xe Graphics", architecture=Architecture.XE_LP))},
        State.NOTE,
        "Iris",
        "precision fp32",
    ),
    "render-missing": ({"render_nodes": (), "inventory": NOTHING}, State.ERROR, "/dev/dri", "--device /dev/dri"),
    "render-permission": (
        {"render_nodes": (RenderNode("renderD128", "render", usable=False),), "inventory": NOTHING},
        State.ERROR,
        "group render",
        "usermod -aG render,video",
    ),
    "render-group-number": (
        {"render_nodes": (RenderNode("renderD128", "992", usable=False),), "inventory": NOTHING},
        State.ERROR,
        "992",
        "--group-add 992",
    ),
    "render-group-unmapped, LXC": (
        {"render_nodes": (RenderNode("renderD128", "nogroup", usable=False),), "inventory": NOTHING},
        State.ERROR,
        "nogroup",
        "-dev0 /dev/dri/renderD128,gid=",
    ),
    "render-group-unmapped, rootless": (
        {"render_nodes": (RenderNode("renderD128", "65534", usable=False),), "inventory": NOTHING},
        State.ERROR,
        "65534",
        "--group-add keep-groups",
    ),
    "resizable-bar": (
        {"gpus": (dataclasses.replace(A770, largest_bar_bytes=256 << 20),)},
        State.WARNING,
        "256 MiB",
        "Above 4G Decoding",
    ),
    "loader-missing": ({"loader": "", "inventory": NOTHING}, State.ERROR, "libze_loader", "libze1"),
    "loader-path-nixos": (
        {"loader": "", "system": "nixos", "inventory": NOTHING},
        State.ERROR,
        "19751",
        "/run/opengl-driver/lib",
    ),
    "runtime-missing": (
        {"level_zero_driver": "", "inventory": NOTHING},
        State.ERROR,
        "libze_intel_gpu is not",
        "intel-opencl-icd",
    ),
    "torch-not-xpu": (
        {"torch_build": CPU_BUILD, "packages": {}, "inventory": NOTHING},
        State.ERROR,
        "2.13.0+cpu",
        "whl/xpu",
    ),
    "torch-replaced": (
        {"torch_build": torch_build(xpu=False, cuda=True), "packages": {"intel-sycl-rt": "2025.2"}},
        State.ERROR,
        "intel-sycl-rt 2025.2 is still installed",
        "--force-reinstall",
    ),
    "torch-old": (
        {"torch_build": torch_build(version="2.5.1+xpu", accelerator=False)},
        State.ERROR,
        "torch 2.5.1+xpu",
        "whl/xpu",
    ),
    "torch-companions": (
        {"packages": {"torchvision": "0.29.0+cu128"}},
        State.WARNING,
        "torchvision 0.29.0+cu128",
        "torchvision",
    ),
    "ipex": (
        {"packages": {"intel-extension-for-pytorch": "2.5.10"}},
        State.WARNING,
        "2.5.10",
        f"{sys.executable} -m pip uninstall intel-extension-for-pytorch",
    ),
    "pyzes-missing": (
        {"pyzes_problem": "the package pyzes is not installed"},
        State.NOTE,
        "not installed",
        f"{sys.executable} -m pip install pyzes",
    ),
    "pyzes-broken": (
        {"pyzes_problem": "pyzes does not find the Level Zero loader", "system": "fedora"},
        State.NOTE,
        "does not find",
        "/usr/lib64/libze_loader.so.1",
    ),
    "selector": (
        {"environment": {"ONEAPI_DEVICE_SELECTOR": "opencl:*"}, "inventory": NOTHING},
        State.ERROR,
        "ONEAPI_DEVICE_SELECTOR=opencl:*",
        "export ONEAPI_DEVICE_SELECTOR=level_zero:gpu",
    ),
    "selector, all discarded": (
        {"environment": {"ONEAPI_DEVICE_SELECTOR": "!level_zero:*"}, "inventory": NOTHING},
        State.ERROR,
        "!level_zero:*",
        "export ONEAPI_DEVICE_SELECTOR=level_zero:gpu",
    ),
    "selector-quoted": (
        {"environment": {"ONEAPI_DEVICE_SELECTOR": '"level_zero:0"'}, "inventory": NOTHING},
        State.ERROR,
        'ONEAPI_DEVICE_SELECTOR="level_zero:0"',
        "export ONEAPI_DEVICE_SELECTOR=level_zero:0",
    ),
    "selector, a GPU that is not there": (
        {"environment": {"ONEAPI_DEVICE_SELECTOR": "level_zero:7"}, "inventory": NOTHING},
        State.ERROR,
        "level_zero:7",
        "export ONEAPI_DEVICE_SELECTOR=level_zero:gpu",
    ),
    "selector, one of two GPUs": (
        {"environment": {"ONEAPI_DEVICE_SELECTOR": "level_zero:0"}, "gpus": TWO_GPUS},
        State.NOTE,
        "level_zero:0",
        "export ONEAPI_DEVICE_SELECTOR=level_zero:gpu",
    ),
    "affinity-mask, one of two GPUs": (
        {"environment": {"ZE_AFFINITY_MASK": "0"}, "gpus": TWO_GPUS},
        State.NOTE,
        "ZE_AFFINITY_MASK=0",
        "unset ZE_AFFINITY_MASK",
    ),
    "mkl-missing": ({"torch_build": torch_build(mkl=False)}, State.NOTE, "2.13.0", "force-reinstall"),
    "no-gpu, Windows": (
        {"system": "windows", "gpus": (), "inventory": NOTHING},
        State.NOTE,
        "kernel",
        "In Device Manager enable the GPU",
    ),
    "kernel-driver-missing, Windows": (
        {**WINDOWS, "gpus": (Gpu(0xE20B, "", 0, integrated=False),), "inventory": NOTHING},
        State.ERROR,
        "no driver",
        "newest Intel Arc graphics driver",
    ),
    "loader-missing, Windows": (
        {**WINDOWS, "loader": "", "inventory": NOTHING},
        State.ERROR,
        "ze_loader.dll",
        "newest Intel Arc graphics driver",
    ),
    "torch-not-xpu, Windows": (
        {**WINDOWS, "torch_build": CPU_BUILD, "packages": {}, "inventory": NOTHING},
        State.ERROR,
        "2.13.0+cpu",
        "whl/xpu",
    ),
    "affinity-mask, Windows": (
        {**WINDOWS, "environment": {"ZE_AFFINITY_MASK": "1"}, "inventory": NOTHING},
        State.ERROR,
        "ZE_AFFINITY_MASK=1",
        r"reg delete HKCU\Environment /v ZE_AFFINITY_MASK /f",
    ),
    "device-unknown-to-runtime, Windows": (
        {**WINDOWS, "inventory": NOTHING},
        State.ERROR,
        "compute runtime ze_loader.dll",
        "Update Intel's compute runtime",
    ),
    "sycl-filter": (
        {"environment": {"SYCL_DEVICE_FILTER": "opencl:gpu"}, "inventory": NOTHING},
        State.ERROR,
        "opencl:gpu",
        "unset SYCL_DEVICE_FILTER",
    ),
    "affinity-mask": (
        {"environment": {"ZE_AFFINITY_MASK": "1"}, "inventory": NOTHING},
        State.ERROR,
        "ZE_AFFINITY_MASK=1",
        "unset ZE_AFFINITY_MASK",
    ),
    "allocation-limit": (
        {"gpus": (A770,), "inventory": inventory(xpu())},
        State.NOTE,
        "is not 1",
        "UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS=1",
    ),
    "onednn-missing": ({"torch_build": torch_build(onednn=False)}, State.WARNING, "2.13.0", "force-reinstall"),
    "cpu-capability": (
        {"torch_build": torch_build(cpu_capability="DEFAULT")},
        State.WARNING,
        "DEFAULT",
        "ATEN_CPU_CAPABILITY",
    ),
    "device-unknown-to-runtime": (
        {"inventory": NOTHING},
        State.ERROR,
        "1 Intel GPUs",
        "Update Intel's compute runtime",
    ),
    "started-with-cpu": (
        {"host": host(cpu_argument=True, device_type="cpu")},
        State.WARNING,
        "--cpu",
        "without --cpu",
    ),
    "device-argument": (
        {"host": host(device_arguments=("--default-device",))},
        State.NOTE,
        "xpu:0",
        "--oneapi-device-selector level_zero:1",
    ),
    "patched-to-cpu": ({"host": host(device_type="cpu")}, State.ERROR, "without --cpu", "--disable-all-custom-nodes"),
    "comfyui-newer": (
        {"host": host(version="999.1", hooks=(("previews", "unavailable", "no get_previewer"), ("a", "applied", "b")))},
        State.NOTE,
        "changes to ComfyUI that are off: previews",
        "Update XPU Nodes",
    ),
    "neighbour": (
        {"host": host(neighbours=(("OmniXPU", "computes attention"),))},
        State.NOTE,
        "OmniXPU was found",
        "switch it off",
    ),
    "no-answer": (
        {"left_behind": (LastWords(1, 0.0, silent=(Work("xpu:1", "decode", "8", 1e9),)),)},
        State.WARNING,
        "decode on xpu:1 (node 8, 2001-09-0",
        "Restart the computer",
    ),
    "ended-at-work": (
        {"left_behind": (LastWords(1, 0.0, running=Work("xpu:0", "sample", "", 1e9)),)},
        State.NOTE,
        "sample on xpu:0 (2001-09-0",
        "Nothing if you ended it",
    ),
    "hook-unavailable": (
        {"host": host(hooks=(("memory", "unavailable", "no get_free_memory here"),))},
        State.NOTE,
        "no get_free_memory here",
        "git pull",
    ),
    "hook-unknown": (
        {"host": host(hooks=(("memroy", "unknown", "the nearest is memory"),))},
        State.WARNING,
        "the nearest is memory",
        "Correct the name",
    ),
    "hook-stood-down": (
        {"host": host(hooks=(("memory", "stood down", "comfy-aimdo-xpu manages memory"),))},
        State.NOTE,
        "comfy-aimdo-xpu",
        "undo what is named",
    ),
    "hook-stood-down, the switch": (
        {"host": host(hooks=(("protection", "stood down", "the switch is off"),))},
        State.NOTE,
        "the switch is off",
        "throw *Protect every workflow*",
    ),
    "ram-small": ({"host": host(largest_model_bytes=30 * GIB)}, State.WARNING, "30.0 GiB of model", "quantised"),
    "disk-full": ({"free_disk_bytes": GIB}, State.WARNING, "1.0 GiB free", "Free some space"),
    "disk-full, of the models": (
        {"host": host(free_model_disk_bytes=GIB)},
        State.WARNING,
        "1.0 GiB free",
        "Free some space",
    ),
}
