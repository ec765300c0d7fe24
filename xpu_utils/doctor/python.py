"""Checks of what Python has: PyTorch's build, packages beside it, the environment, the processor's libraries."""

from __future__ import annotations

from collections.abc import Iterator

from ..machine.devices import TORCH_NEEDED
from ..machine.pip import install_torch, pip
from ..machine.profiles import OVERRIDES_VARIABLE, Architecture
from ..machine.selector import leaves, shows
from .findings import Finding, State, everywhere
from .machine import Machine
from .system import RUNTIME

_TORCH_FIX = everywhere(
    install_torch(), nixos='Take comfyui-xpu from this pack\'s flake, with services.comfyui-xpu.acceleration = "xpu";'
)

_XPU_LEFTOVERS = ("intel-sycl-rt", "intel-cmplr-lib-rt", "dpcpp-cpp-rt", "pytorch-triton-xpu", "triton-xpu")


def torch_build(machine: Machine) -> Iterator[Finding]:
    """PyTorch is an XPU build, and was not replaced by another one."""
    build = machine.torch_build
    if not build.accelerator:
        what = f"PyTorch is older than {TORCH_NEEDED}: ComfyUI starts without this pack"
        yield Finding("torch-old", State.ERROR, what, f"torch {build.version} has no torch.accelerator", _TORCH_FIX)
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
        state = State.ERROR if machine.candidates else State.NOTE
        yield Finding("torch-not-xpu", state, f"PyTorch is a {kind} build", f"torch {build.version}", _TORCH_FIX)


def companions(machine: Machine) -> Iterator[Finding]:
    """torchvision and torchaudio come from the same build as torch; the old extension is gone."""
    flavour = machine.torch_build.version.partition("+")[2]
    for name in ("torchvision", "torchaudio"):
        version = machine.packages.get(name, "")
        other = version.partition("+")[2]
        fits = other == flavour or (name == "torchaudio" and other == "cpu")  # all of its operators are the CPU's
        if flavour and other and not fits:
            what = f"{name} was built for another PyTorch: its operators will be missing"
            evidence = f"torch {machine.torch_build.version}, {name} {version}"
            yield Finding("torch-companions", State.WARNING, what, evidence, _TORCH_FIX)
    if "intel-extension-for-pytorch" in machine.packages:
        yield Finding(
            "ipex",
            State.WARNING,
            "Intel's extension for PyTorch is installed; its work is in PyTorch itself now and it can break newer ones",
            f"intel-extension-for-pytorch {machine.packages['intel-extension-for-pytorch']}",
            everywhere(pip("uninstall intel-extension-for-pytorch")),
        )


def sysman(machine: Machine) -> Iterator[Finding]:
    """The bindings of Sysman work, so that memory of other programs, temperature and power can be read."""
    if not machine.inventory.accelerators:
        return
    if not machine.pyzes_problem:
        yield Finding("pyzes", State.OK, "Sysman can be read", f"pyzes {machine.packages.get('pyzes', '')}")
    elif "not installed" in machine.pyzes_problem:
        what = "Without pyzes the memory other programs use is only estimated"
        fixes = everywhere(pip("install pyzes"), nixos="Add pyzes to the Python environment of ComfyUI.")
        yield Finding("pyzes-missing", State.NOTE, what, machine.pyzes_problem, fixes)
    else:
        link = "sudo mkdir -p /usr/lib/x86_64-linux-gnu && sudo ln -s {} /usr/lib/x86_64-linux-gnu/libze_loader.so.1"
        fixes = {
            "debian": "sudo apt install libze1",
            "fedora": link.format("/usr/lib64/libze_loader.so.1"),
            "arch": link.format("/usr/lib/libze_loader.so.1"),
            "nixos": "Use this pack's flake: its pyzes finds the loader in the store.",
            "windows": "Install the newest Intel Arc graphics driver from intel.com, then restart.",
        }
        what = "pyzes is installed but cannot be used"
        yield Finding("pyzes-broken", State.NOTE, what, machine.pyzes_problem, fixes)


def environment(machine: Machine) -> Iterator[Finding]:
    """No variable hides a device, and the one that lifts a limit of single allocations is set."""
    yield from hiding(machine)
    limited = [device for device in machine.inventory.devices if device.single_allocation_limit_bytes is not None]
    variable = "UR_L0_ENABLE_RELAXED_ALLOCATION_LIMITS"
    if limited and machine.environment.get(variable) != "1":
        yield Finding(
            "allocation-limit",
            State.NOTE,
            f"{limited[0].id} refuses single allocations above 4 GiB; very large pictures need tiling",
            f"{variable} is not 1 (it costs speed, so it is off by default)",
            everywhere(f"export {variable}=1", windows=f"setx {variable} 1"),
        )


def sourced(machine: Machine) -> Iterator[Finding]:
    """oneAPI's setvars was not run in the shell that started this, where PyTorch's wheel has SYCL of its own."""
    # Windows has the other variable, too, once oneAPI is installed.
    names = ("SETVARS_COMPLETED",) if machine.system == "windows" else ("SETVARS_COMPLETED", "ONEAPI_ROOT")
    given = [f"{name}={machine.environment[name]}" for name in names if name in machine.environment]
    if given and machine.torch_build.version.endswith("+xpu"):
        state = State.NOTE if machine.shown else State.WARNING
        what = "oneAPI's own SYCL is in the way of the one that PyTorch brings"
        fix = "Start ComfyUI in a shell in which setvars.{} was not run."
        fixes = everywhere(fix.format("sh"), windows=fix.format("bat"))
        yield Finding("oneapi-sourced", state, what, given[0], fixes)


def kernel_cache(machine: Machine) -> Iterator[Finding]:
    """The driver keeps what it compiles."""
    for variable in ("SYCL_CACHE_PERSISTENT", "NEO_CACHE_PERSISTENT"):
        if machine.environment.get(variable) == "0":
            what = "The driver keeps nothing of what it compiles: every start of ComfyUI compiles it again"
            yield Finding("kernel-cache-off", State.NOTE, what, f"{variable}=0", _unsetting(variable))


COMPILER = {
    "debian": "sudo apt install g++",
    "fedora": "sudo dnf install gcc-c++",
    "arch": "sudo pacman -S gcc",
    "nixos": 'services.comfyui-xpu.environment.CXX = "${pkgs.gcc}/bin/g++";',
    "windows": "Install the Visual Studio Build Tools with C++, and start ComfyUI from their command prompt.",
}


def compiler(machine: Machine) -> Iterator[Finding]:
    """torch.compile finds a C++ compiler."""
    if not machine.compiler:
        what = "torch.compile finds no C++ compiler: nodes that compile a model fail"
        evidence = "none on the PATH or in CXX"
        yield Finding("compiler-missing", State.NOTE, what, evidence, COMPILER)


def hiding(machine: Machine) -> Iterator[Finding]:
    """Variables that leave out devices: an error where none is left, else a note, as it may be meant."""
    variables, gpus = machine.environment, machine.present or 1
    state = State.NOTE if machine.shown else State.ERROR
    selector = variables.get("ONEAPI_DEVICE_SELECTOR", "").strip()
    if selector[:1] in ("'", '"'):
        selector, given = selector.strip("'\""), selector
        what = "ONEAPI_DEVICE_SELECTOR holds quotes, which SYCL takes for a part of it"
        fixes = _setting("ONEAPI_DEVICE_SELECTOR", selector)
        yield Finding("selector-quoted", state, what, f"ONEAPI_DEVICE_SELECTOR={given}", fixes)
    # Each tile of a Data Center Max counts as a device.
    tiles = 2 if any(gpu.architecture is Architecture.DATA_CENTER_MAX for gpu in machine.candidates) else 1
    left = sum(shows(selector, position) for position in range(tiles * gpus))
    if left < gpus:
        what = f"ONEAPI_DEVICE_SELECTOR leaves {left} of {gpus} Level Zero GPUs, and PyTorch takes no others"
        fixes = _setting("ONEAPI_DEVICE_SELECTOR", "level_zero:gpu")
        yield Finding("selector", state, what, f"ONEAPI_DEVICE_SELECTOR={selector}", fixes)
    older = variables.get("SYCL_DEVICE_FILTER", "")
    if older and not any(name in older for name in ("level_zero", "*")):
        what, evidence = "SYCL_DEVICE_FILTER leaves out Level Zero", f"SYCL_DEVICE_FILTER={older}"
        yield Finding("sycl-filter", state, what, evidence, _unsetting("SYCL_DEVICE_FILTER"))
    mask = variables.get("ZE_AFFINITY_MASK", "")
    left = sum(leaves(mask, position) for position in range(tiles * gpus))
    if left < gpus:
        what, evidence = f"ZE_AFFINITY_MASK leaves {left} of {gpus} GPUs", f"ZE_AFFINITY_MASK={mask}"
        yield Finding("affinity-mask", state, what, evidence, _unsetting("ZE_AFFINITY_MASK"))


def _setting(variable: str, value: str) -> dict[str, str]:
    nixos = f'environment.variables.{variable} = "{value}";'
    return everywhere(f"export {variable}={value}", windows=f"setx {variable} {value}", nixos=nixos)


def _unsetting(variable: str) -> dict[str, str]:
    nixos = f"Remove {variable} from environment.variables and from the shell's flake."
    return everywhere(f"unset {variable}", windows=rf"reg delete HKCU\Environment /v {variable} /f", nixos=nixos)


def profiles(machine: Machine) -> Iterator[Finding]:
    """The user's own values of an architecture can be read."""
    for entry in machine.inventory.rejected:
        if entry.what == OVERRIDES_VARIABLE:
            fixes = _unsetting(OVERRIDES_VARIABLE)
            yield Finding("profiles", State.WARNING, f"{OVERRIDES_VARIABLE} is not followed", entry.why, fixes)


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
    if not build.mkl:
        what = "This PyTorch has no MKL, which its builds for x86-64 have: linear algebra on the processor is slower"
        yield Finding("mkl-missing", State.NOTE, what, f"torch {build.version}", _TORCH_FIX)
    if build.onednn and build.cpu_capability != "DEFAULT":
        evidence = f"oneDNN, {'MKL, ' if build.mkl else ''}{build.cpu_capability}"
        yield Finding("processor", State.OK, "The processor's libraries are there", evidence)


_UNKNOWN = (
    "Restart the machine: a GPU that has stopped stays away until then. Update Intel's compute runtime if that does "
    "not help: it may not know this GPU yet."
)
_UNKNOWN_IN_WSL = "In Windows install the newest Intel graphics driver, then: wsl --update, and wsl --shutdown."


def devices(machine: Machine) -> Iterator[Finding]:
    """PyTorch shows the devices that the machine has."""
    for device in machine.inventory.accelerators:
        evidence = f"{device.name}, driver {device.driver_version or 'unknown'}"
        yield Finding("device", State.OK, f"{device.id} is usable", evidence)
        if device.type == "xpu" and not device.profile.official:
            what = f"PyTorch does not officially support {device.id}, only Intel's GPUs from Arc A (Alchemist) on"
            fixes = everywhere(
                "Nothing can be mended; where a picture is wrong, choose precision fp32 or the device cpu."
            )
            yield Finding("device-unofficial", State.NOTE, what, device.name, fixes)
    failed = [entry for entry in machine.inventory.rejected if entry.what.split(":")[0] == "xpu"]
    for entry in failed:
        yield Finding("device-failed", State.ERROR, f"{entry.what} cannot be used", entry.why, everywhere(entry.fix))
    has_nodes = bool(machine.render_nodes) or machine.wsl or machine.system == "windows"
    open_nodes = has_nodes and all(node.usable for node in machine.render_nodes)
    ready = machine.torch_build.xpu and machine.level_zero and open_nodes
    if not machine.driven or machine.shown or failed or not ready:
        return
    if machine.adapter_problem:
        what = (
            "PyTorch's library for Level Zero cannot be loaded: the Level Zero here is older than it needs, or broken"
        )
        yield Finding("adapter-broken", State.ERROR, what, machine.adapter_problem, RUNTIME)
    elif not machine.given_up:
        gpus = "/dev/dxg" if machine.wsl else f"{len(machine.candidates)} Intel GPUs on the bus"
        yield Finding(
            "device-unknown-to-runtime",
            State.ERROR,
            "Driver, runtime and PyTorch are there, and still PyTorch shows no device",
            f"{gpus}, compute runtime {machine.level_zero_driver or machine.loader}",
            everywhere(_UNKNOWN_IN_WSL if machine.wsl else _UNKNOWN),
        )


CHECKS = (torch_build, companions, sysman, environment, sourced, kernel_cache, compiler, profiles, processor, devices)
