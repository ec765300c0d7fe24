"""Any ComfyUI by one variable: which one is taken, and the Python that it gets."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.harness import environment
from tests.harness.hosts import ROOT, SITE

SHOW = "import importlib.util, tqdm; print(importlib.util.find_spec('torch').origin); print(tqdm.VERSION)"


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a ComfyUI which asks for nothing; no registry can be reached."""
    host = tmp_path / "ComfyUI"
    (host / "comfy").mkdir(parents=True)
    (host / "main.py").touch()
    (host / "nodes.py").write_text("# calls comfy_entrypoint\n")
    (host / "requirements.txt").touch()
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setattr(environment, "CACHE", tmp_path / "cache")
    return host


def wheel(folder: Path, name: str, version: str, source: str) -> None:
    """Writes a wheel of one module."""
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", source)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")


def test_a_host_that_asks_for_nothing_more_runs_in_our_python(comfyui: Path) -> None:
    (comfyui / "requirements.txt").write_text("tqdm  # any\n\ntorch==0.1\nnot-for-us; python_version < '3'\n")
    assert environment.host_python(comfyui) == Path(sys.executable)


def test_what_a_host_pins_comes_before_ours_and_pytorch_stays_ours(comfyui: Path, tmp_path: Path) -> None:
    before = importlib.metadata.version("tqdm")
    wheel(tmp_path / "wheels", "tqdm", "999.0", 'VERSION = "that of the host"')
    (comfyui / "requirements.txt").write_text("torch\ntqdm==999.0\n")
    python = environment.host_python(comfyui)
    shown = subprocess.run([python, "-c", SHOW], capture_output=True, text=True, check=True).stdout.splitlines()
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert Path(shown[0]).samefile(str(torch.origin))
    assert shown[1] == "that of the host"
    assert importlib.metadata.version("tqdm") == before
    (tmp_path / "wheels" / "tqdm-999.0-py3-none-any.whl").unlink()
    assert environment.host_python(comfyui) == python, "an environment is made once"


def test_our_version_holds_where_the_host_takes_any(comfyui: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "needs_tqdm", "1.0", "")
    wheel(tmp_path / "wheels", "tqdm", "999.0", "")
    (comfyui / "requirements.txt").write_text("tqdm\nneeds_tqdm\n")
    asked = [environment.host_python(comfyui), "-c", "import tqdm; print(tqdm.__version__)"]
    assert subprocess.run(asked, capture_output=True, text=True).stdout.strip() == importlib.metadata.version("tqdm")


def say(host: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.harness.environment", "-c", "print('ran')"]
    variables = {name: value for name, value in os.environ.items() if name != "HOST_VERSION"}
    variables["COMFYUI_PATH"] = str(host)
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)


def test_the_chosen_hosts_python_runs_what_it_is_given(comfyui: Path) -> None:
    assert say(comfyui).stdout.strip() == "ran"


@pytest.mark.parametrize("missing", ["main.py", "nodes.py", "requirements.txt"])
def test_a_folder_without_comfyui_is_refused_in_one_sentence(comfyui: Path, missing: str) -> None:
    (comfyui / missing).unlink()
    done = say(comfyui)
    assert (done.returncode, done.stdout) == (1, "")
    told = f"COMFYUI_PATH: {comfyui} holds no whole ComfyUI ({missing} is missing), point it at a checkout.\n"
    assert done.stderr == told


def test_a_comfyui_from_before_v3_nodes_is_refused_in_one_sentence(comfyui: Path) -> None:
    (comfyui / "nodes.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    done = say(comfyui)
    assert done.returncode == 1
    assert done.stderr == (f"COMFYUI_PATH: the ComfyUI in {comfyui} knows no V3 nodes, update it to 0.3.52 or newer.\n")


@pytest.mark.parametrize("line", ["--extra-index-url https://registry.invalid", "-r more.txt"])
def test_a_requirement_that_names_no_package_is_told_in_one_sentence(comfyui: Path, line: str) -> None:
    (comfyui / "requirements.txt").write_text(f"tqdm\n{line}\n")
    done = say(comfyui)
    file = comfyui / "requirements.txt"
    assert done.returncode == 1
    assert done.stderr == f"COMFYUI_PATH: {file} holds {line!r}, which names no package; take it out.\n"


def test_requirements_that_cannot_be_installed_are_named_in_one_sentence(comfyui: Path) -> None:
    (comfyui / "requirements.txt").write_text("comfy-not-there==1.2\n")
    with pytest.raises(ValueError, match=r"requires comfy-not-there==1.2, which cannot be installed \(.*\); ") as told:
        environment.host_python(comfyui)
    assert len(str(told.value).splitlines()) == 1
    with pytest.raises(ValueError, match="comfy-not-there"):  # a half-made environment is not taken for a whole one
        environment.host_python(comfyui)


THREADS = """
import concurrent.futures, kornia.contrib
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(*pool.map(lambda _: kornia.contrib.last, range(4)))
"""


def test_a_module_that_is_executed_on_demand_is_whole_for_every_thread(tmp_path: Path) -> None:
    (tmp_path / "kornia").mkdir()
    (tmp_path / "kornia" / "__init__.py").touch()
    (tmp_path / "kornia" / "contrib.py").write_text("import time\ntime.sleep(0.2)\nlast = 1\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SITE, tmp_path)))}
    done = subprocess.run([sys.executable, "-c", THREADS], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1"] * 4, done.stderr
