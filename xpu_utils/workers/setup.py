"""How a worker's ComfyUI is started: which one, with which models, on which device."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from ..asked import WORKER_VARIABLE
from ..machine.selector import shows

PACK = Path(__file__).resolve().parents[2]
COMFYUI_VARIABLE = "COMFYUI_PATH"
LEVEL_ZERO_LIMIT = 64
"""More GPUs than any machine has."""
_DEVICE = re.compile(r"cpu|(xpu|cuda)(?::(\d{1,4}))?")


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all workers have in common. Paths are those of the worker's machine."""

    comfyui: str = ""
    """ComfyUI's folder; empty for what COMFYUI_PATH names, or else the one that this pack is installed in."""
    models: str = ""
    """A folder of models beside ComfyUI's own."""

    @classmethod
    def of(cls, comfyui: str, models: str) -> Setup:
        """From what a command was given, relative to where it runs; empty is not given."""
        return cls(*(str(Path(folder).resolve()) if folder else "" for folder in (comfyui, models)))


class CannotStart(Exception):
    """A worker cannot be had here; one sentence."""


def comfyui_folder(setup: Setup) -> Path:
    """The ComfyUI that a worker starts.

    Raises:
        CannotStart: there is none.
    """
    named = setup.comfyui or os.environ.get(COMFYUI_VARIABLE)
    folder = Path(named) if named else PACK.parents[1]
    if (folder / "main.py").is_file():
        return folder.resolve()
    where = f"{named} holds no ComfyUI" if named else "this pack is not in ComfyUI's custom_nodes"
    raise CannotStart(f"{where}: name its folder with --comfyui, or in {COMFYUI_VARIABLE} on that machine.")


def devices_of(text: str) -> tuple[str, ...]:
    """The ids in what a command was given, each once: "xpu:0,xpu:1"."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def device_binding(device: str, environment: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The arguments and variables that leave a ComfyUI one device, by its id in the inventory ("xpu:1", "cpu").

    Raises:
        CannotStart: it is none, or one that is not shown here.
    """
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise CannotStart(f"{device} is no device that a worker can have: name xpu:0, cuda:0 or cpu, with its number.")
    kind, index = match[1], int(match[2] or 0)
    if kind is None:
        return ("--cpu",), {}
    if kind == "xpu":
        selector = environment.get("ONEAPI_DEVICE_SELECTOR", "")
        left = [position for position in range(LEVEL_ZERO_LIMIT) if shows(selector, position)]
        if index >= len(left):
            raise CannotStart(f"{device} is none of this machine's {len(left)}, as ONEAPI_DEVICE_SELECTOR shows them.")
        return (), {"ONEAPI_DEVICE_SELECTOR": f"level_zero:{left[index]}"}
    shown = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if shown and index >= len(shown):
        raise CannotStart(f"{device} is none of this machine's {len(shown)}, as CUDA_VISIBLE_DEVICES shows them.")
    return (), {"CUDA_VISIBLE_DEVICES": shown[index] if shown else str(index)}


def command(setup: Setup, device: str, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The command line of a worker's ComfyUI and its environment; lays out what it needs in the folder.

    Raises:
        CannotStart: there is no ComfyUI.
        OSError: the folder cannot be written.
    """
    comfyui = comfyui_folder(setup)
    arguments, variables = device_binding(device, os.environ)
    for name in ("input", "output", "temp", "user"):
        (folder / name).mkdir()
    own = (
        *("--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"),
        *(part for name in ("input", "output", "temp", "user") for part in (f"--{name}-directory", str(folder / name))),
        *("--database-url", f"sqlite:///{folder / 'user' / 'comfyui.db'}"),
        *("--extra-model-paths-config", str(_more_paths(setup, comfyui, folder))),
    )
    program = [str(Path(__file__).with_name("guard.py")), str(comfyui / "main.py")]
    line = [sys.executable, *program, *own, *arguments]
    return line, {**os.environ, **variables, WORKER_VARIABLE: "1"}


def _more_paths(setup: Setup, comfyui: Path, folder: Path) -> Path:
    """A file that adds the models, and this pack where that ComfyUI has it not, in ComfyUI's own form."""
    added: dict[str, dict[str, str]] = {}
    if setup.models:
        names = sorted(entry.name for entry in Path(setup.models).iterdir() if entry.is_dir())
        added["models"] = {"base_path": str(Path(setup.models).resolve()), **{name: name for name in names}}
    installed = (comfyui / "custom_nodes").glob("*/xpu_utils/workers")
    if not any(installed):
        (folder / "custom_nodes").mkdir()
        (folder / "custom_nodes" / "xpu-nodes").symlink_to(PACK, target_is_directory=True)
        added["pack"] = {"base_path": str(folder), "custom_nodes": "custom_nodes"}
    file = folder / "more_paths.yaml"
    file.write_text(json.dumps(added), encoding="utf-8")  # JSON is YAML
    return file
