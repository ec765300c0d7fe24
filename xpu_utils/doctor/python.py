"""Checks of what Python has: PyTorch's build, packages beside it, the environment, the processor's libraries."""

from __future__ import annotations

from collections.abc import Iterator

from ..profiles import Architecture
from .findings import Finding, State, everywhere
from .machine import Machine

INSTALL_TORCH = (
    "pip install --force-reinstall torch torchvision torchaudio --index-url https://download.pytorch.org/whl/xpu"
)

_TORCH_FIX = everywhere(
    INSTALL_TORCH, nixos="Take torch from this pack's flake, or python3Packages.torch built with xpuSupport."
)

_XPU_LEFTOVERS = ("intel-sycl-rt", "intel-cmplr-lib-rt", "dpcpp-cpp-rt", "pytorch-triton-xpu", "triton-xpu")


def torch_build(machine: Machine) -> Iterator[Finding]:
    """PyTorch is an XPU build, and was not replaced by another one."""
    build = machine.torch_build
    if build.xpu:
        yield Finding("torch-xpu", State.OK, "PyTorch is an XPU build", f"torch {build.version}")
        return
    kind = "CUDA" if build.cuda else "CPU"
    leftovers = [name for name in _XPU_LEFTOVERS if name in machine.packages]
    if leftovers:
        what = f"The XPU build of PyTorch was replaced by a {kind} build"
        evidence = f"torch {build.version}, yet {leftovers[0]} {machine.packages[leftovers[0]]} is still installed"
        yield Finding("torch-replaced", State.ERROR, what, evidence, _TORCH_FIX)
    else:
        state = State.ERROR if machine.gpus else State.NOTE
        yield Finding("torch-not-xpu", state, f"PyTorch is a {kind} build", f"torch {build.version}", _TORCH_FIX)


def companions(machine: Machine) -> Iterator[Finding]:
    """torchvision and torchaudio come from the same build as torch; the old extension is gone."""
    flavour = machine.torch_build.version.partition("+")[2]
    for name in ("torchvision", "torchaudio"):
        version = machine.packages.get(name, "")
        other = version.partition("+")[2]
        if flavour and other and other != flavour:
            what = f"{name} was built for another PyTorch: its operators will be missing"
            evidence = f"torch {machine.torch_build.version}, {name} {version}"
            yield Finding("torch-companions", State.WARNING, what, evidence, _TORCH_FIX)
    if "intel-extension-for-pytorch" in machine.packages:
        yield Finding(
            "ipex",
            State.WARNING,
            "Intel's extension for PyTorch is installed; its work is in PyTorch itself now and it can break newer ones",
            f"intel-extension-for-pytorch {machine.packages['intel-extension-for-pytorch']}",
            everywhere("pip uninstall intel-extension-for-pytorch"),
        )


def sysman(machine: Machine) -> Iterator[Finding]:
    """The bindings of Sysman work, so that memory of other programs, temperature and power can be read."""
    if not machine.inventory.accelerators:
        return
    if not machine.pyzes_problem:
        yield Finding("pyzes", State.OK, "Sysman can be read", f"pyzes {machine.packages.get('pyzes', '')}")
    elif "not installed" in machine.pyzes_problem:
        what = "Without pyzes the memory other programs use is only estimated"
        fixes = everywhere("pip install pyzes", nixos="Add pyzes to the Python environment of ComfyUI.")
        yield Finding("pyzes-missing", State.NOTE, what, machine.pyzes_problem, fixes)
    else:
        link = "sudo mkdir -p /usr/lib/x86_64-linux-gnu && sudo ln -s {} /usr/lib/x86_64-linux-gnu/libze_loader.so.1"
        fixes = {
            "debian": "sudo apt install libze1",
            "fedora": link.format("/usr/lib64/libze_loader.so.1"),
            "arch": link.format("/usr/lib/libze_loader.so.1"),
            "nixos": "Use this pack's flake: it points pyzes at /run/opengl-driver/lib.",
            "windows": "Install the newest Intel Arc graphics driver from intel.com, then restart.",
        }
        what = "pyzes is installed but cannot be used"
        yield Finding("pyzes-broken", State.NOTE, what, machine.pyzes_problem, fixes)


def environment(machine: Machine) -> Iterator[Finding]:
    """No variable hides a device."""
    variables = machine.environment
    selector = variables.get("ONEAPI_DEVICE_SELECTOR", "")
    if selector and "level_zero" not in selector and not selector.startswith("*"):
        yield _hiding(
            "selector", "ONEAPI_DEVICE_SELECTOR", selector, "PyTorch takes Level Zero devices only", "level_zero:gpu"
        )
    if "SYCL_DEVICE_FILTER" in variables and "level_zero" not in variables["SYCL_DEVICE_FILTER"]:
        yield _hiding(
            "sycl-filter", "SYCL_DEVICE_FILTER", variables["SYCL_DEVICE_FILTER"], "it leaves out Level Zero", ""
        )
    shown = sum(device.type == "xpu" for device in machine.inventory.devices)
    if "ZE_AFFINITY_MASK" in variables and shown < len(machine.gpus):
        mask = variables["ZE_AFFINITY_MASK"]
        yield _hiding("affinity-mask", "ZE_AFFINITY_MASK", mask, f"{shown} of {len(machine.gpus)} GPUs are left", "")
    limited = [device.id for device in machine.inventory.devices if device.architecture is Architecture.ALCHEMIST]
    if limited and variables.get("UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS") != "1":
        fix = "export UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS=1"
        yield Finding(
            "allocation-limit",
            State.NOTE,
            f"{limited[0]} refuses single allocations above 4 GiB; very large pictures need tiling",
            "UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS is not 1 (it costs speed, so it is off by default)",
            everywhere(fix, windows="setx UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS 1"),
        )


def _hiding(code: str, variable: str, value: str, why: str, better: str) -> Finding:
    shell = f"export {variable}={better}" if better else f"unset {variable}"
    windows = f'setx {variable} "{better}"'
    nixos = f"Remove {variable} from environment.variables and from the shell's flake."
    what = f"{variable} hides devices: {why}"
    return Finding(code, State.ERROR, what, f"{variable}={value}", everywhere(shell, windows=windows, nixos=nixos))


def processor(machine: Machine) -> Iterator[Finding]:
    """The libraries and instructions that the processor's share of the work needs."""
    build = machine.torch_build
    if not build.onednn:
        what = "This PyTorch has no oneDNN: work on the processor is many times slower"
        yield Finding("onednn-missing", State.WARNING, what, f"torch {build.version}", _TORCH_FIX)
    if build.cpu_capability == "DEFAULT":
        fix = "Unset ATEN_CPU_CAPABILITY; in a virtual machine pass the processor through (cpu: host)."
        yield Finding(
            "cpu-capability",
            State.WARNING,
            "PyTorch uses no vector instructions of this processor",
            "capability DEFAULT",
            everywhere(fix),
        )
    if build.onednn and build.cpu_capability != "DEFAULT":
        evidence = f"oneDNN, {'MKL, ' if build.mkl else ''}{build.cpu_capability}"
        yield Finding("processor", State.OK, "The processor's libraries are there", evidence)


def devices(machine: Machine) -> Iterator[Finding]:
    """PyTorch shows the devices that the machine has."""
    for device in machine.inventory.accelerators:
        evidence = f"{device.name}, driver {device.driver_version or 'unknown'}"
        yield Finding("device", State.OK, f"{device.id} is usable", evidence)
    xpus = [device for device in machine.inventory.devices if device.type == "xpu"]
    ready = machine.torch_build.xpu and machine.level_zero_driver and all(node.usable for node in machine.render_nodes)
    if machine.gpus and not xpus and ready:
        fix = "Update Intel's compute runtime and restart: it does not know this GPU yet."
        yield Finding(
            "device-unknown-to-runtime",
            State.ERROR,
            "Driver, runtime and PyTorch are there, and still PyTorch shows no device",
            f"{len(machine.gpus)} Intel GPUs on the bus, compute runtime {machine.level_zero_driver}",
            everywhere(fix),
        )


CHECKS = (torch_build, companions, sysman, environment, processor, devices)
