"""The facts the checks look at, gathered once; a broken machine can be described without having it."""

from __future__ import annotations

import ctypes.util
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import stat
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from ..machine.devices import Inventory, find_devices
from ..machine.gpus import SYSFS, Gpu, find_gpus
from ..machine.host_memory import read_host_memory
from ..machine.kernel_log import given_up
from ..machine.last_words import LastWords, left_behind
from ..machine.profiles import Architecture
from ..telemetry import sysman
from ..telemetry.readings import Unavailable


@dataclasses.dataclass(frozen=True)
class RenderNode:
    """/dev/dri/renderD*"""

    path: str
    group: str
    """Name of its group, or the bare number where this system has no name for it."""
    usable: bool


@dataclasses.dataclass(frozen=True)
class TorchBuild:
    """What the installed PyTorch was built for."""

    version: str
    xpu: bool
    cuda: bool
    mkl: bool
    onednn: bool
    cpu_capability: str
    """"AVX512", "AVX2", "DEFAULT", ..."""
    accelerator: bool = True
    """Whether it has `torch.accelerator`."""


@dataclasses.dataclass(frozen=True)
class Host:
    """How ComfyUI runs, where the doctor runs inside it."""

    cpu_argument: bool
    device_type: str
    """Type of the device the host computes on."""
    device_arguments: tuple[str, ...] = ()
    """Those given of its arguments that choose among NVIDIA's and AMD's cards only."""
    hooks: tuple[tuple[str, str, str], ...] = ()
    """(name, state, reason) of our own touches on the host."""
    neighbours: tuple[tuple[str, str], ...] = ()
    """(who, what follows for our touches) of what works on the same things."""
    largest_model_bytes: int = 0
    free_model_disk_bytes: int | None = None
    """Free where the models lie; None where that folder cannot be looked at."""
    version: str = ""
    """ComfyUI's own; empty where it does not tell."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Everything the checks may look at."""

    system: str
    """One of `findings.SYSTEMS`; "linux" for another Linux."""
    kernel: str
    gpus: tuple[Gpu, ...]
    render_nodes: tuple[RenderNode, ...]
    loader: str
    """Level Zero loader found, or empty."""
    level_zero_driver: str
    """Intel's Level Zero GPU driver found, with its version where its file tells, or empty; always so on Windows,
    where it lies in the driver's own folder."""
    torch_build: TorchBuild
    packages: Mapping[str, str]
    """Installed Python packages that matter here, with their versions."""
    pyzes_problem: str
    """Why Sysman cannot be used; empty where it can."""
    environment: Mapping[str, str]
    inventory: Inventory
    ram_bytes: int
    free_disk_bytes: int
    host: Host | None = None
    dxg: bool = False
    """Whether /dev/dxg is there, by which WSL reaches the GPUs of Windows."""
    dxcore: str = ""
    """WSL's library for that, where it is found."""
    given_up: str = ""
    """What the kernel says of a GPU that it has given up; looked for where PyTorch does not show all."""
    adapter_problem: str = ""
    """Why PyTorch's library for Level Zero cannot be loaded; looked at where it shows no device."""
    compiler: str = ""
    """The C++ compiler that torch.compile finds, or empty."""
    left_behind: tuple[LastWords, ...] = ()
    """What earlier runs of ComfyUI were at that had no orderly end, or whose device gave no answer."""

    @property
    def wsl(self) -> bool:
        return "microsoft" in self.kernel.lower()

    @property
    def driven(self) -> bool:
        """Whether there is a GPU that PyTorch could use, with a driver: the kernel's, or that of Windows below WSL."""
        below = self.wsl and self.dxg and self.torch_build.xpu  # else it may be another maker's
        return below or any(gpu.driver for gpu in self.candidates)

    @property
    def level_zero(self) -> bool:
        """Whether all that Level Zero consists of is found; on Windows its driver is part of the graphics driver."""
        driver = self.level_zero_driver or self.system == "windows"
        return bool(self.loader and driver and (self.dxcore or not self.wsl))

    @property
    def candidates(self) -> tuple[Gpu, ...]:
        """The GPUs that PyTorch could use."""
        return tuple(gpu for gpu in self.gpus if gpu.architecture is not Architecture.BEFORE_XE)

    @property
    def present(self) -> int:
        """How many of those are this system's: one that vfio-pci holds is a virtual machine's."""
        return sum(gpu.driver != "vfio-pci" for gpu in self.candidates)

    @property
    def shown(self) -> int:
        """How many Intel GPUs PyTorch shows; what is below it works then."""
        return sum(device.type == "xpu" for device in self.inventory.devices)


_PACKAGES = (
    "torch",
    "torchvision",
    "torchaudio",
    "pyzes",
    "intel-extension-for-pytorch",
    "intel-sycl-rt",
    "intel-cmplr-lib-rt",
    "dpcpp-cpp-rt",
    "pytorch-triton-xpu",
    "triton-xpu",
)


def look(
    host: Host | None = None,
    *,
    inventory: Inventory | None = None,
    sysfs: Path = SYSFS,
    dri: Path = Path("/dev/dri"),
) -> Machine:
    """Gathers the facts of this machine; starts nothing on any device.

    Args:
        inventory: the devices, where they were counted already, or cannot be.
    """
    gpus = find_gpus(sysfs)
    inventory = find_devices() if inventory is None else inventory
    machine = Machine(
        system=system_name(),
        kernel=platform.release(),
        gpus=gpus,
        render_nodes=tuple(_render_nodes(dri, _nodes_of_others(gpus, sysfs))),
        loader=_library("ze_loader"),
        level_zero_driver=_library("ze_intel_gpu"),
        torch_build=installed_torch(),
        packages=_packages(),
        pyzes_problem=_pyzes_problem(inventory),
        environment={name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)},
        inventory=inventory,
        ram_bytes=read_host_memory().total_bytes,
        free_disk_bytes=shutil.disk_usage(Path(__file__).parent).free,
        host=host,
        dxg=(dri.parent / "dxg").exists(),
        dxcore=_library("dxcore"),
        compiler=next(filter(None, map(shutil.which, _compilers())), ""),
        left_behind=left_behind(),
    )
    if not machine.driven or machine.shown >= max(1, len(machine.candidates)):
        return machine
    failed = any(entry.what.split(":")[0] == "xpu" for entry in inventory.rejected)
    problem = "" if machine.shown or failed or not machine.torch_build.xpu else adapter_problem()
    return dataclasses.replace(machine, given_up=given_up(), adapter_problem=problem)


def _compilers() -> tuple[str, ...]:
    """What torch.compile calls: $CXX, or the system's own."""
    own = os.environ.get("CXX")
    return (own,) if own else ("cl",) if sys.platform == "win32" else ("g++", "clang++")


_VARIABLES = ("ONEAPI_", "SETVARS_", "ZE_", "ZES_", "SYCL_", "UR_", "PYTORCH_", "NEO", "XPU_NODES_")
"""Only variables of the drivers and of PyTorch are looked at: the rest is none of our business."""


def system_name() -> str:
    """The system whose fixes apply here."""
    if sys.platform == "win32":
        return "windows"
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "linux"
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    aliases = {"ubuntu": "debian", "rhel": "fedora", "archlinux": "arch"}
    known = [aliases.get(name, name) for name in names]
    return next((name for name in known if name in ("debian", "fedora", "arch", "nixos")), "linux")


def _nodes_of_others(gpus: Sequence[Gpu], sysfs: Path) -> set[str]:
    """Render nodes of other makers' GPUs."""
    return {path.name for path in (sysfs / "class" / "drm").glob("renderD*")} - {gpu.render_node for gpu in gpus}


def _render_nodes(dri: Path, others: Collection[str]) -> Iterator[RenderNode]:
    for path in sorted(dri.glob("renderD*")):
        if path.name not in others and os.path.exists(path):
            yield RenderNode(path.name, _group_name(path.stat()), os.access(path, os.R_OK | os.W_OK))


def _group_name(status: os.stat_result) -> str:
    import grp  # Unix only

    try:
        name = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        return str(status.st_gid)
    return name if stat.S_ISCHR(status.st_mode) else f"{name} (not a device)"


_NIXOS_DRIVERS = "/run/opengl-driver/lib"
_LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")


def _library(name: str) -> str:
    """A shared library by its short name, as the loader would find it; empty where it is not there.

    On Linux its file is looked for, whose full name holds the version: libze_intel_gpu.so.1.6.33578.
    """
    found = ctypes.util.find_library(name) or ""
    if sys.platform == "win32":
        return found
    named = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    for folder in [*named, _NIXOS_DRIVERS, *(_LIBRARY_FOLDERS if found else ())]:
        files = [os.path.basename(os.path.realpath(file)) for file in Path(folder).glob(f"lib{name}.so*")]
        if files:
            return max(files, key=len)
    return found


_TORCH_LIBRARIES = (Path(torch.__file__).parents[3], Path(sys.prefix, "Library", "bin"))
"""Where PyTorch's wheel for XPUs looks for SYCL: <environment>/lib, on Windows <environment>/Library/bin."""


def adapter_problem(folders: Sequence[Path] = _TORCH_LIBRARIES) -> str:
    """Why SYCL's library for Level Zero cannot be loaded; empty where it can, or there is none."""
    for file in [file for folder in folders for file in sorted(folder.glob("*ur_adapter_level_zero.*"))]:
        try:
            ctypes.CDLL(str(file))
        except OSError as error:
            return str(error)
    return ""


def installed_torch() -> TorchBuild:
    """The PyTorch of this process."""
    capability = getattr(getattr(torch.backends, "cpu", None), "get_cpu_capability", lambda: "unknown")
    return TorchBuild(
        version=torch.__version__,
        xpu=bool(getattr(torch.version, "xpu", None)) or torch.xpu._is_compiled(),
        cuda=bool(torch.version.cuda),
        mkl=torch.backends.mkl.is_available(),
        onednn=torch.backends.mkldnn.is_available(),
        cpu_capability=str(capability()),
        accelerator=hasattr(torch, "accelerator"),
    )


def _packages() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _pyzes_problem(inventory: Inventory) -> str:
    if any(entry.what == "xpu" for entry in inventory.rejected):
        return "not asked, as the driver failed"
    try:
        sysman.load()
    except Unavailable as error:
        return str(error)
    return ""
