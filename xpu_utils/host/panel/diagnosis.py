"""The doctor inside ComfyUI: what the host adds to the facts of the machine."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import comfy.model_management as model_management
import folder_paths
from comfy.cli_args import args

from ...doctor.examine import examine, examine_device, examine_packs
from ...doctor.findings import Finding
from ...doctor.machine import Host, Machine, look
from ..hooks import listed
from ..neighbours import present
from ..progress import check_stop, stepping

try:
    from comfyui_version import __version__ as host_version
except ImportError:  # nothing but the doctor's words depends on it
    host_version = ""

_DEVICE_ARGUMENTS = {"--default-device": args.default_device, "--cuda-device": args.cuda_device}
MODEL_KINDS = ("checkpoints", "diffusion_models", "text_encoders")


def diagnose(*, kernels: bool = False, packs: bool = False, in_node: bool = False) -> tuple[Machine, list[Finding]]:
    """Examines the machine and the host, the worst findings first. Blocks, for seconds a device with `kernels`.

    Args:
        kernels: also run a real kernel on every device, each in a child process.
        packs: also read the source of the other packs for places that insist on CUDA.
        in_node: show a node's progress, and end when ComfyUI's stop button is pressed.
    """
    machine = look(host_facts())
    steps = [functools.partial(examine, machine)]
    if kernels:
        stop = check_stop if in_node else lambda: None
        steps += [functools.partial(examine_device, device, stop) for device in machine.inventory.devices]
    if packs:
        steps += [functools.partial(examine_packs, Path(f)) for f in folder_paths.get_folder_paths("custom_nodes")]
    do = stepping(_do, len(steps)) if in_node else _do
    findings = [finding for step in steps for finding in do(step)]
    return machine, sorted(findings, key=lambda finding: -finding.state)


def _do(step: Callable[[], list[Finding]]) -> list[Finding]:
    return step()


def host_facts() -> Host:
    """How ComfyUI runs: its device, what works beside us, our hooks, the largest model."""
    return Host(
        cpu_argument=bool(args.cpu),
        device_type=model_management.get_torch_device().type,
        device_arguments=tuple(name for name, value in _DEVICE_ARGUMENTS.items() if value is not None),
        neighbours=tuple(present()),
        hooks=tuple((hook.name, hook.state.value, hook.reason) for hook in listed()),
        largest_model_bytes=max(map(_size, _model_files()), default=0),
        free_model_disk_bytes=_free_bytes(Path(folder_paths.models_dir)),
        version=host_version,
    )


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:  # the models may all lie elsewhere
        return None


def _model_files() -> list[str]:
    known = [kind for kind in MODEL_KINDS if kind in folder_paths.folder_names_and_paths]
    paths = [folder_paths.get_full_path(kind, name) for kind in known for name in folder_paths.get_filename_list(kind)]
    return list(filter(None, paths))


def _size(file: str) -> int:
    try:
        return os.path.getsize(file)
    except OSError:  # a link to nothing, or gone since ComfyUI listed it
        return 0
