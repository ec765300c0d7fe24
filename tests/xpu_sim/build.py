"""The C++ extension: checked, built once, kept."""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

TORCH_VERSION = "2.13.0"
"""The version whose internals the C++ side uses."""

NAME = "xpu_sim_core"
_COMPLETE = "complete"  # written last: an interrupted build starts again
_SOURCES = Path(__file__).parent / "csrc"
ROOT = Path(__file__).parents[(__package__ or "").count(".") + 1]
"""The folder that this package is imported from."""


class CannotSimulate(RuntimeError):
    """This Python environment cannot run the simulation; the message is one sentence saying why."""


def load() -> ModuleType:
    """Return the extension module, building it at the first call for these sources and this torch.

    Raises:
        CannotSimulate: not Linux, wrong torch, or no compiler.
    """
    _check_system()
    _check_torch()
    folder = _cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if not (folder / _COMPLETE).exists():
            return _compile(folder)
    return _import(folder / f"{NAME}.so")


def _import(library: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(library))
    spec = importlib.util.spec_from_file_location(NAME, library, loader=loader)
    if spec is None:
        raise CannotSimulate(f"The simulated XPU cannot load its extension {library}.")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _check_system() -> None:
    if sys.platform != "linux":
        raise CannotSimulate(f"The simulated XPU runs on Linux, not on {sys.platform}: use a Linux machine or WSL.")


def _check_torch() -> None:
    version = torch.__version__
    if version.split("+")[0] != TORCH_VERSION or torch.version.cuda or torch._C._has_xpu:
        raise CannotSimulate(
            f"The simulated XPU is made for the CPU build of torch {TORCH_VERSION}, not for {version}: "
            f"install torch=={TORCH_VERSION}+cpu."
        )


def _cache_folder() -> Path:
    chosen = os.environ.get("XPU_SIM_BUILD_DIR")
    root = Path(chosen) if chosen else ROOT / ".cache" / "xpu_sim"
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    tag = f"{torch.__version__}-{sys.implementation.cache_tag}-{digest.hexdigest()[:12]}"
    return root.resolve() / tag


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    import fcntl

    with Path(f"{folder}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _compile(folder: Path) -> ModuleType:
    from torch.utils import cpp_extension

    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise CannotSimulate(
            f"The simulated XPU needs a C++ compiler and {compiler!r} is not there: install g++ or set CXX."
        )
    # A virtual environment that was not activated has its ninja beside its python.
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", ""), str(Path(sys.executable).parent)))
    if not cpp_extension.is_ninja_available():
        raise CannotSimulate("The simulated XPU needs ninja to build its extension: pip install ninja.")
    (folder / "lock").unlink(missing_ok=True)  # torch's, left by a build that was killed; ours is held
    try:
        module = cpp_extension.load(
            name=NAME,
            sources=[str(source) for source in sorted(_SOURCES.glob("*.cpp"))],
            extra_cflags=["-O2", "-DNDEBUG"],  # NDEBUG changes the layout of a PyTorch class
            build_directory=str(folder),
            verbose=bool(os.environ.get("XPU_SIM_VERBOSE")),
        )
    except (RuntimeError, subprocess.SubprocessError) as error:
        raise CannotSimulate(
            "The simulated XPU's extension did not compile: set XPU_SIM_VERBOSE=1 to see why."
        ) from error
    (folder / _COMPLETE).touch()
    return module
