"""What is built with nixpkgs' own lib: the same packages, the checkpoint, units; with WHEELS=1 Intel's runtime."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.harness.hosts import CACHE

from ..build import Store
from ..evaluate import ROOT

WHEELS = json.loads((ROOT / "nix/wheels.json").read_text(encoding="utf-8"))["wheels"]["intel"]
DOWNLOADED = CACHE / "wheels"
RUNTIME_BYTES = 2_300_000_000
# glibc and the compiler's libraries, which autoPatchelfHook finds in stdenv.
OF_STDENV = re.compile(r"(ld-linux-x86-64|lib(atomic|c|m|dl|rt|pthread|util|resolv|gcc_s|stdc\+\+|z))\.so\.\d+")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="xpu-nodes-nix-") as name:
        yield Store(Path(name))
        subprocess.run(["chmod", "-R", "u+w", name], check=True)


def test_the_little_lib_of_the_other_tests_builds_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("nodes", "xpu", "cpu")
    built = store.build(*names)
    monkeypatch.delenv("NIXPKGS_LIB")
    assert Store(store.folder).build(*names) == built


def test_the_checkpoint_of_the_virtual_machine_is_one(store: Store) -> None:
    (folder,) = store.build("checkpoint")
    with safe_open(folder / "sd15-tiny.safetensors", framework="pt") as file:
        assert any(name.startswith("model.diffusion_model.") for name in file.keys())  # noqa: SIM118


def test_systemd_accepts_the_units(store: Store) -> None:
    (units,) = store.build("units", file="tests/nix/deep/units.nix")
    names = {path.name for path in units.iterdir()}
    assert {"comfyui-xpu.service", "comfyui-xpu-doctor.service", "multi-user.target.wants"} <= names
    service = (units / "comfyui-xpu.service").read_text()
    assert "\nUser=comfyui-xpu\n" in service
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(units / "comfyui-xpu.service")],
        capture_output=True,
        text=True,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{units}:"},
    )
    assert (checked.returncode, checked.stderr) == (0, "")


if "WHEELS" in os.environ:

    @pytest.fixture(scope="module")
    def runtime(store: Store) -> Path:
        """Intel's runtime from its wheels, 1 GB, which are kept."""
        DOWNLOADED.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--platform", "manylinux_2_28_x86_64", "--dest", str(DOWNLOADED)]
        subprocess.run([*command, *(f"{wheel['name']}=={wheel['version']}" for wheel in WHEELS)], check=True)
        return store.build("runtime", wheels=str(DOWNLOADED))[0]

    def test_the_runtime_holds_nothing_twice(runtime: Path) -> None:
        files = [path for path in runtime.rglob("*") if path.is_file() and not path.is_symlink()]
        assert sum(path.stat().st_size for path in files) <= RUNTIME_BYTES
        assert len({digest(path) for path in files}) == len(files)

    def test_every_library_of_the_runtime_finds_what_it_needs(runtime: Path) -> None:
        """Or is told to do without: what nixpkgs' autoPatchelfHook would stop at."""
        recipe = (ROOT / "nix/packages/intel-xpu-runtime.nix").read_text(encoding="utf-8")
        ignored = set(re.findall(r'^    "(lib\S+)"$', recipe, re.MULTILINE))
        here = {path.name for path in runtime.rglob("*")}
        needed = {name for path in runtime.rglob("*") if not path.is_symlink() for name in needs(path)}
        missing = {name for name in needed - here if not OF_STDENV.fullmatch(name)}
        assert missing == ignored


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def needs(path: Path) -> list[str]:
    """The libraries that a library names, none where it is no library."""
    done = subprocess.run(["readelf", "--dynamic", "--wide", str(path)], capture_output=True, text=True)
    return re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)
