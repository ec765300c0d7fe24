"""`python -m tests.xpu_sim -- program.py`, the control port, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness import prepare
from tests.xpu_sim import build
from tests.xpu_sim.control import Client

ROOT = Path(__file__).resolve().parents[2]


def launch(*arguments: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    command = [sys.executable, "-m", "tests.xpu_sim", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


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


FAULT = {"operator": "exp", "kind": "nan"}
REFUSED: list[tuple[str, object, str]] = [
    ("/device/0", {"size": 1}, "no field 'size'"),
    ("/device/0", [], "A device must be an object"),
    ("/device/0", {"missing_operators": ["view"]}, "'view' matches nothing"),
    ("/device/1", {"total_bytes": 1}, "A device must be one of the 1 simulated ones"),
    ("/device/-1", {"total_bytes": 1}, "A device must be one of the 1 simulated ones"),
    ("/faults", {}, "faults must be a list"),
    ("/faults", [1], "A fault must be an object"),
    ("/faults", [{**FAULT, "kind": "boom"}], "There is no fault 'boom'"),
    ("/faults", [{**FAULT, "above_bytes": -1}], "above_bytes must be from 0"),
    ("/faults", [{**FAULT, "seed": 1 << 64}], "seed must be from 0"),
    ("/faults", [{**FAULT, "device": 1}], "A fault's device must be one of the 1 simulated ones"),
    ("/nothing", {}, "There is no /nothing"),
]


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
        for path, document, message in REFUSED:
            with pytest.raises(ValueError, match=message):
                client._call(path, document)
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


@pytest.mark.parametrize("script", ["exit 1", 'case "$*" in *dump*|--version) exec c++ "$@";; esac; exit 1'])
def test_sources_that_do_not_compile(tmp_path: Path, script: str) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    env = {"CXX": str(compiler), "XPU_SIM_BUILD_DIR": str(tmp_path / "build")}
    finished = launch("--", str(program(tmp_path, "")), env=env)
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last == "The simulated XPU's extension did not compile: set XPU_SIM_VERBOSE=1 to see why."
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("torch.version.cuda = '12.8'", "made for the CPU build of torch 2.13.0, not for 2.13.0"),
        ("torch._C._has_xpu = True", "made for the CPU build of torch 2.13.0, not for 2.13.0"),
        ("sys.platform = 'win32'", "runs on Linux, not on win32"),
    ],
)
def test_on_another_machine(tmp_path: Path, lines: str, message: str) -> None:
    # fcntl is on no Windows: nothing may import it before the sentence is said
    (tmp_path / "sitecustomize.py").write_text(f"import sys, torch\n{lines}\nsys.modules['fcntl'] = None\n")
    env = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    assert message in refused(("--", str(program(tmp_path, ""))), env)


def test_preparing_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot() -> None:
        raise build.CannotSimulate("There is no compiler.")

    for name in ("host_path", "ensure_models", "evaluator", "ensure_chromium"):
        monkeypatch.setattr(prepare, name, lambda *arguments: None)
    monkeypatch.setattr(build, "load", cannot)
    with pytest.raises(SystemExit, match="There is no compiler"):
        prepare.main()


def test_a_copy_of_the_folder_works_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "xpu_sim", tmp_path / "elsewhere" / "simulated")
    (tmp_path / "use.py").write_text(
        "from elsewhere.simulated.fixtures import run_snippet\n"
        "print(run_snippet('answer(str(torch.ones(2, device=\"xpu\").device))'))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "XPU_SIM_BUILD_DIR": str(build._cache_folder().parent)}
    command = [sys.executable, str(tmp_path / "use.py")]
    finished = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert finished.stdout == "xpu:0\n", finished.stderr


@pytest.mark.parametrize("version", ["2.12.0+cpu", "2.14.0", "2.13.0.dev20260401"])
def test_with_another_torch(tmp_path: Path, version: str) -> None:
    # a sitecustomize is what runs before the launcher and can give torch another version
    (tmp_path / "sitecustomize.py").write_text(f"import torch\ntorch.__version__ = {version!r}\n")
    env = {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    sentence = refused(("--", str(program(tmp_path, ""))), env)
    assert f"made for the CPU build of torch 2.13.0, not for {version}" in sentence


def test_two_processes_build_once(tmp_path: Path) -> None:
    """A build that is under way is waited for, not started again: the lock is held while it runs."""
    # asked in a process of its own: the torch of this one calls itself an XPU build
    ask = [sys.executable, "-c", "from tests.xpu_sim import build; print(build._cache_folder())"]
    folder = Path(subprocess.check_output(ask, cwd=ROOT, text=True).strip())
    with build._lock(folder):
        waiting = subprocess.Popen(
            [sys.executable, "-m", "tests.xpu_sim", "--", str(program(tmp_path, "print('ran')"))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not waits_for_a_lock(waiting.pid):
            assert waiting.poll() is None, "it went ahead while another process was building"
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert waiting.communicate(timeout=600)[0].strip() == "ran"


def waits_for_a_lock(pid: int) -> bool:
    lines = Path("/proc/locks").read_text().splitlines()
    return any(" -> " in line and str(pid) in line.split() for line in lines)


def test_builds_for_other_python_or_other_sources_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with build._lock(tmp_path / "2.13.0+cpu-one"):
        assert [path.name for path in tmp_path.iterdir()] == ["2.13.0+cpu-one.lock"]


def test_the_cost_is_told_as_a_table() -> None:
    command = [sys.executable, "-m", "tests.xpu_sim.cost", "--rounds", "1", "--channels", "32", "64"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in finished.stdout.splitlines()]
    assert [row[0] for row in rows[2:]] == ["fp32", "bf16", "fp16"], finished.stderr
    assert all(float(row[3]) > 0 for row in rows[2:])
