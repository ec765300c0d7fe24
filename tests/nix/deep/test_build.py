"""What is built with nixpkgs' own lib: the same packages, the test checkpoint, the units, Intel's runtime."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from ..build import Store

WHEELS = os.environ.get("WHEELS")


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
