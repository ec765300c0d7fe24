"""The Python that a ComfyUI runs in: ours, or one of its own laid over ours where the host asks for other packages.

`python -m tests.harness.environment ARGUMENTS` becomes the chosen host's Python, with these arguments.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from .hosts import CACHE, ROOT, host_path

LEFT_OUT = frozenset(
    {*("torch", "torchvision", "torchaudio"), *("comfyui-workflow-templates", "comfyui-embedded-docs")}
)
"""Never taken from a host's requirements: PyTorch and what is built for it, which site/ makes fit, and hundreds of
megabytes of examples and help pages."""


def host_python(host: Path) -> Path:
    """The Python that has what a host requires; made from the registry where ours does not.

    The packages of the environment come before ours, which it sees too: PyTorch is not installed a second time.

    Raises:
        ValueError: a requirement cannot be read or installed.
    """
    missing = [str(requirement) for requirement in _requirements(host) if not _is_met(requirement)]
    if not missing:
        return Path(sys.executable)
    ours = str(Path(sysconfig.get_path("purelib")).resolve())
    key = hashlib.sha256("\n".join([ours, *missing]).encode()).hexdigest()[:12]
    folder = CACHE / "environments" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / ".ready").is_file():
            _make(folder, host, missing, ours)
            (folder / ".ready").touch()
    return _python(folder)


def _requirements(host: Path) -> Iterator[Requirement]:
    file = host / "requirements.txt"
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    for line in filter(None, lines):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # an option of pip's, such as another registry
            raise ValueError(f"COMFYUI_PATH: {file} holds {line!r}, which names no package; take it out.") from None
        applies = requirement.marker is None or requirement.marker.evaluate()
        if applies and canonicalize_name(requirement.name) not in LEFT_OUT:
            yield requirement


def _is_met(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _make(folder: Path, host: Path, missing: list[str], ours: str) -> None:
    """Makes an environment that sees our packages, in `ours`, behind its own, and installs what is missing into it."""
    venv.create(folder, clear=True, symlinks=os.name != "nt")
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (own / "behind.pth").write_text(ours)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(_constraints(missing)))
    command = [sys.executable, "-m", "pip", "--python", str(_python(folder)), "install", "-q", "-c", str(constraints)]
    done = subprocess.run([*command, *missing], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "pip failed")
        raise ValueError(
            f"COMFYUI_PATH: {host} requires {', '.join(missing)}, which cannot be installed ({reason}); "
            "connect to a registry that has it, or use a ComfyUI whose requirements can be had."
        )


def _constraints(missing: list[str]) -> Iterator[str]:
    """Our versions, save of the packages that the host wants in others."""
    names = {canonicalize_name(Requirement(line).name) for line in missing}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#") and canonicalize_name(Requirement(line).name) not in names:
            yield line


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def main() -> None:
    try:
        python = host_python(host_path())
    except ValueError as error:
        sys.exit(str(error))
    os.execv(python, [str(python), *sys.argv[1:]])


if __name__ == "__main__":
    main()
