"""What the Comfy registry ships: the tracked files that `.comfyignore` leaves, unpacked elsewhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xpu_utils.bench.compare import as_json
from xpu_utils.bench.measure import Measurement

ROOT = Path(__file__).parents[2]

RUN = """
import json, runpy, sys
codes, package = {}, sys.argv[2]
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    try:
        runpy.run_path(package, run_name="__main__")
    except SystemExit as end:
        codes[" ".join(command)] = end.code
print(json.dumps(codes))
"""


def listed(*options: str) -> set[str]:
    command = ["git", "ls-files", *options]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines())


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "xpu-nodes"
    for name in listed() - listed("--cached", "--ignored", "--exclude-from=.comfyignore"):
        if (ROOT / name).is_file():  # else deleted and not yet committed
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    return folder


def test_it_holds_what_users_need_and_nothing_else(package: Path) -> None:
    assert sorted(path.name for path in package.iterdir()) == [
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "__init__.py",
        "__main__.py",
        "docs",
        "example_workflows",
        "locales",
        "nodes",
        "prestartup_script.py",
        "pyproject.toml",
        "requirements.txt",
        "subgraphs",
        "web",
        "xpu_utils",
    ]


def test_a_pytorch_that_cannot_be_loaded_ends_in_a_sentence(package: Path, tmp_path: Path) -> None:
    why = "/opt/intel/oneapi/lib/libur_loader.so.0: version `LIBUR_LOADER_0.10' not found"
    (tmp_path / "torch.py").write_text(f"raise ImportError({why!r})")
    command = [sys.executable, str(package), "doctor"]
    done = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"PyTorch cannot be loaded ({why}): if a path in that is oneAPI's, start from a shell"
    )
    assert "Traceback" not in done.stderr


def test_every_command_runs_from_it(package: Path, tmp_path: Path) -> None:
    """Each verb's help, and those that take no longer than their imports, with a Python that ignores folders (-I)."""
    measured = tmp_path / "measured.json"
    measured.write_text(as_json([Measurement("copy", "cpu", "", 1.0, 1e9, "B/s")]))
    verbs = ("devices", "doctor", "bench", "batch", "serve", "my-gpu")
    commands = [["--help"], *([verb, "--help"] for verb in verbs)]
    commands += [["devices"], ["devices", "--json"], ["bench", "--compare", str(measured), str(measured)]]
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN, json.dumps(commands), str(package)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {" ".join(command): 0 for command in commands}
