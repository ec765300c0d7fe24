"""`python -m tests.xpu_sim -- program.py`, the control port, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.xpu_sim.control import Client

ROOT = Path(__file__).resolve().parents[2]


def launch(*arguments: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    command = [sys.executable, "-m", "tests.xpu_sim", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def program(folder: Path, text: str) -> Path:
    path = folder / "program.py"
    path.write_text(text)
    return path


def test_a_program_runs_as_python_would_run_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("VALUE = 5")
    path = program(
        tmp_path,
        "import json, sys, torch, beside\n"
        "print(json.dumps([__name__, sys.argv[1:], sys.path[0], __file__, beside.VALUE,"
        " torch.xpu.get_device_name(1), torch.ones(2, device='xpu:1').sum().item()]))\n"
        "sys.exit(3)\n",
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    finished = launch(
        *("--device", "arc-b580", "--device", "lunar-lake", "--", str(path), "--flag", "--", "x"), cwd=elsewhere
    )
    assert finished.returncode == 3, finished.stderr
    assert json.loads(finished.stdout) == [
        *("__main__", ["--flag", "--", "x"], str(tmp_path), str(path), 5),
        *("Intel(R) Arc(TM) 140V GPU", 2.0),
    ]


def test_an_error_of_the_program_is_shown(tmp_path: Path) -> None:
    finished = launch("--", str(program(tmp_path, "raise KeyError('mine')")))
    assert finished.returncode == 1
    assert "KeyError: 'mine'" in finished.stderr


def test_control_from_another_process(tmp_path: Path) -> None:
    path = program(
        tmp_path,
        "import sys, torch\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        print(torch.ones(4).to('xpu').exp().device, flush=True)\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n",
    )
    port_file = tmp_path / "port"
    config = tmp_path / "sim.json"
    config.write_text(json.dumps({"control_port": 0, "control_port_file": str(port_file)}))
    command = [sys.executable, "-m", "tests.xpu_sim", "--config", str(config), "--", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        to_program, from_program = process.stdin, process.stdout
        assert to_program
        assert from_program

        def step() -> str:
            to_program.write("go\n")
            to_program.flush()
            return from_program.readline().strip()

        assert step() == "xpu:0"
        client = Client(int(port_file.read_text()))
        assert client.statistics().devices[0].count("exp") == 1
        client.set_faults({"operator": "exp", "kind": "out_of_resources"})
        assert "UR_RESULT_ERROR_OUT_OF_RESOURCES" in step()
        assert client.statistics().faults_fired == (1,)
        client.set_faults()
        client.reset_statistics()
        assert client.statistics().devices[0].count("exp") == 0
        client.change_device(0, missing_operators=["exp"])
        assert "is not currently implemented for the XPU device" in step()
        with pytest.raises(ValueError, match="no field 'size'"):
            client.change_device(0, size=1)
        with pytest.raises(ValueError, match="There is no fault 'boom'"):
            client.set_faults({"operator": "exp", "kind": "boom"})
        to_program.close()
    assert process.returncode == 0


def refused(arguments: Sequence[str], env: dict[str, str] | None = None) -> str:
    """Runs a launch that must fail with one sentence, and returns the sentence."""
    finished = launch(*arguments, env=env)
    assert finished.returncode != 0
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    assert lines[0].endswith(".")
    return lines[0]


def test_bad_configuration(tmp_path: Path) -> None:
    path = program(tmp_path, "")
    assert "There is no preset 'arc-c1'" in refused(("--device", "arc-c1", "--", str(path)))
    (tmp_path / "sim.json").write_text('{"devices": [{"total_bytes": 0}]}')
    assert "total_bytes must be more than 0" in refused(("--config", str(tmp_path / "sim.json"), "--", str(path)))
    assert "There is no program" in refused(("--", str(tmp_path / "none.py")))


def test_without_a_compiler(tmp_path: Path) -> None:
    env = {"CXX": "no-such-compiler", "XPU_SIM_BUILD_DIR": str(tmp_path / "build")}
    sentence = refused(("--", str(program(tmp_path, ""))), env)
    assert "needs a C++ compiler and 'no-such-compiler' is not there" in sentence


@pytest.mark.parametrize("version", ["2.12.0+cpu", "2.14.0", "2.13.0.dev20260401"])
def test_with_another_torch(tmp_path: Path, version: str) -> None:
    # a sitecustomize is what runs before the launcher and can give torch another version
    (tmp_path / "sitecustomize.py").write_text(f"import torch\ntorch.__version__ = {version!r}\n")
    env = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    sentence = refused(("--", str(program(tmp_path, ""))), env)
    assert f"made for the CPU build of torch 2.13.0, not for {version}" in sentence


def test_two_processes_build_once(tmp_path: Path) -> None:
    """A build that is under way is waited for, not started again: the lock is held while it runs."""
    import fcntl

    from tests.xpu_sim import build

    folder = build._cache_folder()
    with folder.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [sys.executable, "-m", "tests.xpu_sim", "--", str(program(tmp_path, "print('ran')"))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(6)
        assert waiting.poll() is None
    assert waiting.communicate(timeout=60)[0].strip() == "ran"
