"""Checks of the system under PyTorch: kernel driver, permissions, memory window, Level Zero."""

from __future__ import annotations

from collections.abc import Iterator

from ..machine.gpus import DRIVERS, Gpu
from ..machine.profiles import PROFILES
from .findings import Finding, State, everywhere
from .machine import Machine

_FIRMWARE = {
    "debian": "sudo apt full-upgrade && (sudo apt install linux-firmware || sudo apt install firmware-misc-nonfree)",
    "fedora": "sudo dnf upgrade --refresh kernel linux-firmware intel-gpu-firmware && sudo reboot",
    "arch": "sudo pacman -Syu linux linux-firmware && sudo reboot",
    "nixos": "hardware.enableRedistributableFirmware = true; boot.kernelPackages = pkgs.linuxPackages_latest;",
    "windows": "Install the newest Intel Arc graphics driver from intel.com, then restart.",
}

RUNTIME = {
    "debian": "sudo apt install intel-opencl-icd libze1 libze-intel-gpu1",
    "fedora": "sudo dnf install intel-compute-runtime intel-level-zero oneapi-level-zero",
    "arch": "sudo pacman -S intel-compute-runtime level-zero-loader",
    "nixos": "hardware.graphics.extraPackages = [ pkgs.intel-compute-runtime.drivers pkgs.level-zero ];",
    "windows": "Install the newest Intel Arc graphics driver from intel.com, then restart.",
}

_NO_GPU = everywhere(
    "In a virtual machine or container pass the GPU through; otherwise switch it on in the firmware setup.",
    windows="In Device Manager enable the GPU under Display adapters.",
)

# Read inside WSL, so for the Linux that runs there.
_INTO_CONTAINER = "a container needs --device /dev/dxg -v /usr/lib/wsl:/usr/lib/wsl."
_WSL_NO_GPU = everywhere(f"In Windows: wsl --update, then wsl --shutdown, and start it again; {_INTO_CONTAINER}")
_WSL_LIBRARY = everywhere(f"export LD_LIBRARY_PATH=/usr/lib/wsl/lib:$LD_LIBRARY_PATH; {_INTO_CONTAINER}")

_GROUPS = {
    **everywhere("sudo usermod -aG render,video $USER && newgrp render"),
    "nixos": 'users.users.<you>.extraGroups = [ "render" "video" ];',
    "windows": "",
}

_OVERFLOW_GROUPS = ("nogroup", "nobody", "65534")
"""What the kernel shows for a group without a number in this container."""

SMALL_BAR_BYTES = 256 << 20
LOW_DISK_BYTES = 2 << 30


def age(machine: Machine) -> Iterator[Finding]:
    """Every Intel GPU is one that PyTorch can use."""
    for gpu in machine.gpus:
        if gpu not in machine.candidates:
            what = f"Intel GPU {gpu.pci_device_id:#06x} is too old for PyTorch"
            fixes = everywhere("Choose the device cpu or use another card: no driver and no setting helps.")
            yield Finding("gpu-too-old", State.NOTE, what, "it uses those of the Xe kind, from 2020 on", fixes)


def kernel_driver(machine: Machine) -> Iterator[Finding]:
    """Every Intel GPU of the bus that can be used has i915 or xe, and one new enough for it."""
    if machine.wsl and not machine.gpus:
        if not machine.shown and not machine.dxg:
            what = "This WSL has no access to the GPUs of Windows"
            yield Finding("wsl-no-gpu", State.ERROR, what, f"no /dev/dxg, kernel {machine.kernel}", _WSL_NO_GPU)
    elif not machine.gpus and not machine.shown:
        yield Finding("no-gpu", State.NOTE, "This system shows no Intel GPU", f"kernel {machine.kernel}", _NO_GPU)
    for gpu in machine.candidates:
        name = f"Intel GPU {gpu.pci_device_id:#06x}"
        if gpu.driver in DRIVERS or (gpu.driver and machine.system == "windows"):
            yield Finding("kernel-driver", State.OK, f"{name} has a driver", f"{gpu.driver}, kernel {machine.kernel}")
        elif gpu.driver == "vfio-pci" and machine.shown:
            what, fixes = f"{name} is kept for a virtual machine", everywhere("Nothing is wrong, if that is meant.")
            yield Finding("kernel-driver-guest", State.NOTE, what, "vfio-pci holds it", fixes)
        elif gpu.driver:
            fixes = everywhere(f"Release the card from {gpu.driver}: remove its id from vfio-pci.ids and restart.")
            yield Finding(
                "kernel-driver-other", State.ERROR, f"{name} is held by {gpu.driver}", "not i915 or xe", fixes
            )
        else:
            evidence = f"kernel {machine.kernel} has no driver or firmware for it"
            yield Finding("kernel-driver-missing", State.ERROR, f"{name} has no driver", evidence, _FIRMWARE)
        yield from _wrong_driver(gpu, machine)


def _wrong_driver(gpu: Gpu, machine: Machine) -> Iterator[Finding]:
    needed = PROFILES[gpu.architecture].kernel_driver
    if gpu.driver == "i915" and needed:
        what = f"Intel GPU {gpu.pci_device_id:#06x} runs on i915, which does not know it: it needs {needed}"
        yield Finding("kernel-driver-old", State.ERROR, what, f"kernel {machine.kernel}", _FIRMWARE)


def stopped(machine: Machine) -> Iterator[Finding]:
    """The kernel has not given the GPU up."""
    if not machine.shown and any(gpu.pci_address in machine.given_up for gpu in machine.candidates if machine.given_up):
        what = "The GPU has stopped and stays away until the machine is restarted"
        fixes = {system: f"Restart the machine. If it comes back: {fix}" for system, fix in _FIRMWARE.items()}
        yield Finding("gpu-stopped", State.ERROR, what, machine.given_up, fixes)


def render_permission(machine: Machine) -> Iterator[Finding]:
    """This user may open the render nodes; where PyTorch shows every GPU, those that remain are of other makers."""
    if machine.system == "windows" or not any(gpu.driver for gpu in machine.candidates):
        return
    needed = machine.shown < machine.present
    if needed and not machine.render_nodes:
        fixes = everywhere("In a container: start it with --device /dev/dri (docker, podman).", windows="")
        evidence = "/dev/dri has no renderD* of an Intel GPU"
        yield Finding("render-missing", State.ERROR, "There is no render node", evidence, fixes)
    for node in machine.render_nodes:
        if node.usable:
            yield Finding("render-permission-ok", State.OK, f"{node.path} can be opened", f"group {node.group}")
        elif not needed:
            continue
        elif node.group in _OVERFLOW_GROUPS:
            what = f"This user may not open {node.path}: its group has no number in this container"
            yield Finding(
                "render-group-unmapped", State.ERROR, what, f"it belongs to {node.group}", _mapping(node.path)
            )
        elif node.group.isdigit():
            fix = f"Start the container with --group-add {node.group} (the host's number of the group render)."
            yield Finding(
                "render-group-number",
                State.ERROR,
                f"This user may not open {node.path}",
                f"its group is number {node.group}, which has no name here",
                everywhere(fix, windows=""),
            )
        else:
            what = f"This user may not open {node.path}"
            yield Finding("render-permission", State.ERROR, what, f"it belongs to the group {node.group}", _GROUPS)


def _mapping(node: str) -> dict[str, str]:
    fix = (
        "Map the group's id into the container. Rootless podman: --group-add keep-groups; Proxmox, on its host: "
        f"pct set <id> -dev0 /dev/dri/{node},gid=<what getent group render answers inside>."
    )
    return everywhere(fix, windows="")


def resizable_bar(machine: Machine) -> Iterator[Finding]:
    """The processor sees all memory of a discrete card; without it transfers are slow."""
    for gpu in machine.candidates:
        if not gpu.integrated and 0 < gpu.largest_bar_bytes <= SMALL_BAR_BYTES:
            fix = "In the firmware setup switch on Resizable BAR (or Smart Access Memory) and Above 4G Decoding."
            yield Finding(
                "resizable-bar",
                State.WARNING,
                f"Resizable BAR is off for Intel GPU {gpu.pci_device_id:#06x}: copies to it are slow",
                f"its largest memory window is {gpu.largest_bar_bytes >> 20} MiB",
                everywhere(fix),
            )


def level_zero(machine: Machine) -> Iterator[Finding]:
    """The Level Zero loader and Intel's driver behind it are there."""
    if not machine.shown and not machine.driven:
        return
    if machine.shown or machine.level_zero:
        files = ", ".join(filter(None, (machine.loader, machine.level_zero_driver)))
        evidence = files or "PyTorch finds them elsewhere than on the library path"
        yield Finding("level-zero", State.OK, "Level Zero and Intel's compute runtime are there", evidence)
    elif not machine.loader and machine.system == "nixos":
        fix = 'environment.sessionVariables.LD_LIBRARY_PATH = [ "/run/opengl-driver/lib" ];'
        fixes = everywhere("export LD_LIBRARY_PATH=/run/opengl-driver/lib:$LD_LIBRARY_PATH", nixos=fix, windows="")
        what = "The Level Zero loader is not on the library path"
        yield Finding("loader-path-nixos", State.ERROR, what, "no libze_loader (intel/llvm #19751)", fixes)
    elif not machine.loader:
        what = "The Level Zero loader is not installed"
        file = "ze_loader.dll" if machine.system == "windows" else "libze_loader"
        yield Finding("loader-missing", State.ERROR, what, f"no {file} on the library path", RUNTIME)
    elif machine.level_zero_driver:
        what = "The library by which WSL reaches the GPUs of Windows is not on the library path"
        yield Finding("wsl-library", State.ERROR, what, "no libdxcore, which is in /usr/lib/wsl/lib", _WSL_LIBRARY)
    else:
        what = "Intel's compute runtime (NEO) is not installed"
        evidence = f"the loader {machine.loader} is there, libze_intel_gpu is not"
        yield Finding("runtime-missing", State.ERROR, what, evidence, RUNTIME)


def capacity(machine: Machine) -> Iterator[Finding]:
    """Main memory and disk suffice for the models present."""
    largest = machine.host.largest_model_bytes if machine.host else 0
    if largest and machine.ram_bytes < 1.2 * largest:
        yield Finding(
            "ram-small",
            State.WARNING,
            "The largest model does not fit into main memory beside the system",
            f"{largest / (1 << 30):.1f} GiB of model, {machine.ram_bytes / (1 << 30):.1f} GiB of memory",
            everywhere("Use a quantised or fp8 version of the model, or add swap of the model's size."),
        )
    disks = [("of this pack", machine.free_disk_bytes)]
    if machine.host is not None and machine.host.free_model_disk_bytes is not None:
        disks.append(("of the models", machine.host.free_model_disk_bytes))
    for which, free_bytes in disks:
        if free_bytes < LOW_DISK_BYTES:
            what, evidence = f"The disk {which} is nearly full", f"{free_bytes / (1 << 30):.1f} GiB free"
            yield Finding("disk-full", State.WARNING, what, evidence, everywhere("Free some space: 10 GiB or more."))


CHECKS = (age, kernel_driver, stopped, render_permission, resizable_bar, level_zero, capacity)
