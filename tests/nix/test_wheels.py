"""nix/update-wheels.py against registries of wheels that hold nothing but their metadata."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from .evaluate import ROOT

LINUX = "py2.py3-none-manylinux_2_28_x86_64"
PYTHON = "cp313-cp313-manylinux_2_28_x86_64"
NEEDS = {
    f"torch-9.0.0+xpu-{PYTHON}": ["sympy", "pyzes==0.2", "triton-xpu==8.0", "intel-sycl-rt==2030.0", "intel-new==1.0"],
    f"torchvision-8.0.0+xpu-{PYTHON}": ["torch==9.0.0"],
    f"torchaudio-7.0.0+xpu-{PYTHON}": [],
    f"triton_xpu-8.0-{PYTHON}": [],
    f"intel_sycl_rt-2030.0-{LINUX}": [],
    f"intel_new-1.0-{LINUX}": [],
    "pyzes-0.2-py3-none-any": [],
    "sympy-1.0-py3-none-any": [],
}
PINS = json.loads((ROOT / "nix/wheels.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("update_wheels", ROOT / "nix/update-wheels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry with the wheels of NEEDS, which is PyPI, too."""
    for stem, needs in NEEDS.items():
        name, version = stem.split("-")[:2]
        project = tmp_path / name.replace("_", "-")
        project.mkdir(exist_ok=True)
        info = f"{name}-{version}.dist-info"
        metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {n}" for n in needs)]
        wheel = project / f"{stem}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
            archive.writestr(
                f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {stem.split('-', 2)[2]}\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        (project / "index.html").write_text(f'<a href="{wheel.name}#sha256={digest}">{wheel.name}</a>')
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", tmp_path.as_uri())
    return tmp_path.as_uri()


def sri(folder: str, stem: str) -> str:
    wheel = Path(folder.removeprefix("file://")) / stem.split("-")[0].replace("_", "-") / f"{stem}.whl"
    return "sha256-" + base64.b64encode(hashlib.sha256(wheel.read_bytes()).digest()).decode()


def test_one_torch_renews_every_version_and_hash(script: ModuleType, registry: str) -> None:
    wheels = script.renewed(PINS, "9.0.0", registry)["wheels"]
    versions = {wheel["name"]: wheel["version"] for wheel in wheels["pytorch"]}
    assert versions == {"torch": "9.0.0", "torchvision": "8.0.0", "torchaudio": "7.0.0", "triton-xpu": "8.0"}
    torch = wheels["pytorch"][0]
    assert torch["hash"] == sri(registry, f"torch-9.0.0+xpu-{PYTHON}")
    assert "source" not in torch, "its registry was asked"
    assert [wheel["name"] for wheel in wheels["intel"]] == ["intel-new", "intel-sycl-rt"]
    assert wheels["python"] == [
        {
            "name": "pyzes",
            "version": "0.2",
            "python": "py3",
            "platform": "any",
            "hash": sri(registry, "pyzes-0.2-py3-none-any"),
        }
    ]
    assert wheels["ipex"] == PINS["wheels"]["ipex"]


def test_where_pytorch_s_registry_is_out_of_reach_its_wheels_are_marked(
    script: ModuleType, registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    intel = [{"name": "intel-sycl-rt", "version": "2030.0", "hash": "sha256-old"}]
    torch = {"name": "torch", "version": "8.0.0", "url": "https://a/torch.whl", "hash": "sha256-old"}
    pins = {"interpreter": "cp313", "wheels": {"pytorch": [torch], "intel": intel, "python": [], "ipex": []}}
    wheels = script.renewed(pins, "9.0.0", (tmp_path / "nowhere").as_uri())["wheels"]
    assert wheels["pytorch"] == [{**torch, "source": script.UNCHECKED}]
    assert wheels["intel"][0]["hash"] == sri(registry, f"intel_sycl_rt-2030.0-{LINUX}")
    assert "gave no torch 9.0.0" in capsys.readouterr().out


def test_a_torch_that_cannot_be_had_is_not_taken_for_one_that_was_written(
    script: ModuleType,
    registry: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "WHEELS", tmp_path / "wheels.json")
    intel = [{"name": "intel-sycl-rt", "version": "2030.0", "hash": "sha256-old"}]
    torch = {"name": "torch", "version": "8.0.0", "url": "https://a/torch.whl", "hash": "sha256-old"}
    pins = {"interpreter": "cp313", "wheels": {"pytorch": [torch], "intel": intel, "python": [], "ipex": []}}
    script.WHEELS.write_text(json.dumps(pins))
    assert script.main(["2.99.0", "--registry", registry]) == 1
    said = capsys.readouterr().out
    assert "gave no torch 2.99.0" in said
    assert "No matching distribution found for torch==2.99.0" in said
    assert script.main(["9.0.0", "--registry", registry]) == 0
    assert json.loads(script.WHEELS.read_text())["wheels"]["pytorch"][0]["version"] == "9.0.0"
