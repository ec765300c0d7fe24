"""The doctor on a healthy machine and on broken ones: each finding with its evidence and a fix for every system."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from xpu_utils.__main__ import main
from xpu_utils.doctor import machine as machine_module
from xpu_utils.doctor import probe, scan
from xpu_utils.doctor.examine import as_data, as_text, examine, report
from xpu_utils.doctor.findings import SYSTEMS, Finding, State, exit_code
from xpu_utils.doctor.machine import Gpu
from xpu_utils.doctor.numeric import Result
from xpu_utils.doctor.server import examine_server

from .broken_machines import BROKEN, host, machine
from .recorded import b580

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "doctor.md"


def test_a_healthy_machine_has_only_good_findings() -> None:
    found = examine(machine())
    assert {finding.state for finding in found} == {State.OK}
    assert exit_code(found) == 0
    assert {finding.code for finding in found} >= {"kernel-driver", "torch-xpu", "device", "level-zero", "pyzes"}


@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_machine_is_found_with_evidence_and_fix(code: str) -> None:
    changes, state, evidence, fix = BROKEN[code]
    broken = machine(**changes)
    (finding,) = (finding for finding in examine(broken) if finding.code == code)
    assert finding.state is state
    assert evidence in finding.evidence
    assert fix in finding.fix_for(broken.system)
    if fix:
        assert set(finding.fixes) == set(SYSTEMS)
    assert exit_code([finding]) == {State.NOTE: 0, State.WARNING: 1, State.ERROR: 2}[state]


ABORT = [sys.executable, "-c", "import os; os.abort()"]
HANG = [sys.executable, "-c", "import time; time.sleep(60)"]
FAIL = [sys.executable, "-c", "raise RuntimeError('no such device')"]
SILENT = [sys.executable, "-c", "pass"]


@pytest.mark.parametrize(
    ("command", "code", "evidence"),
    [
        (ABORT, "kernel-aborts", "child ended by"),
        (HANG, "kernel-hangs", "no answer within"),
        (FAIL, "kernel-fails", "no such device"),
        (SILENT, "kernel-fails", "child ended with code 0"),
    ],
)
def test_a_driver_that_aborts_or_hangs_takes_only_the_child_down(command: list[str], code: str, evidence: str) -> None:
    run = probe.run("xpu:0", limit_seconds=2 if command is HANG else 30, command=command)
    finding = probe.finding("xpu:0", run)
    assert (finding.code, finding.state) == (code, State.ERROR)
    assert evidence in finding.evidence
    assert set(finding.fixes) == set(SYSTEMS)


def test_what_a_child_computed_before_it_hung_is_kept() -> None:
    line = json.dumps(dataclasses.asdict(Result("softmax", "fp32", 0.0)))
    script = f"import time; print({line!r}, flush=True); time.sleep(60)"
    run = probe.run("xpu:0", limit_seconds=2, command=[sys.executable, "-c", script])
    assert run.code is None
    assert [result.name for result in run.results] == ["softmax"]


def test_a_wrong_answer_of_a_kernel_is_an_error() -> None:
    run = probe.Run((Result("softmax", "fp16", 0.0), Result("gelu", "fp16", None, "the answer is not finite")), 0, "")
    finding = probe.finding("xpu:0", run)
    assert finding.code == "kernel-wrong"
    assert "1 of 2 operations" in finding.what
    assert "gelu in fp16: the answer is not finite" in finding.evidence


def test_the_processor_passes_its_own_check_in_a_child_process() -> None:
    assert probe.finding("cpu", probe.run("cpu")).state is State.OK


def test_packs_that_insist_on_cuda_are_named_with_file_and_line(tmp_path: Path) -> None:
    pack = tmp_path / "some-pack"
    pack.mkdir()
    (pack / "nodes.py").write_text(
        'import torch\nmodel.cuda()\nx = torch.zeros(1, device="cuda:0")\nif torch.cuda.is_available():\n'
        '    y = x.to("cuda")\nz = x.to("cpu")\n# model.cuda()\ns = "cuda"\nd = torch.device("cuda")\n'
    )
    (tmp_path / "broken.py").write_text("this is ( not python")
    (pack / ".venv").mkdir()
    (pack / ".venv" / "torch.py").write_text("x.cuda()")
    own = tmp_path.parent / "own"
    own.mkdir(exist_ok=True)
    (own / "nodes.py").write_text("x.cuda()")
    (tmp_path / "ours").symlink_to(own)
    places = scan.scan(tmp_path, own=own.resolve())
    assert {place.pack for place in scan.scan(tmp_path)} == {"some-pack", "ours"}
    assert [(place.file, place.line) for place in places] == [
        ("nodes.py", 2),
        ("nodes.py", 3),
        ("nodes.py", 9),
        ("nodes.py", 5),
    ]
    (finding,) = scan.findings(places)
    assert finding.what == "some-pack insists on CUDA in 4 places"
    assert "nodes.py:2 model.cuda()" in finding.evidence


def test_text_and_data_carry_the_fix_of_this_system() -> None:
    found = examine(machine(loader="", system="arch"))
    assert "sudo pacman -S intel-compute-runtime level-zero-loader" in as_text(found, "arch")
    (entry,) = (entry for entry in as_data(found, "arch") if entry["code"] == "loader-missing")
    assert entry["fix"].startswith("sudo pacman")
    assert entry["state"] == "error"


def test_the_report_names_no_person_path_or_serial() -> None:
    broken = machine(
        kernel="6.12.48-anna-laptop",
        environment={"ONEAPI_DEVICE_SELECTOR": "opencl:*", "SYCL_CACHE_DIR": "/home/anna/cache"},
        host=host(packs=("annas-pack",)),
        pyzes_problem="cannot open /home/anna/lib",
    )
    text = report(broken, examine(broken), {"xpu:0": (Result("softmax", "fp16", 0.001),)})
    assert "anna" not in text
    assert "/" not in text.replace("Meteor/Arrow", "")
    assert b580().uuid not in text
    data = json.loads(text)
    assert data["numbers"]["xpu:0"][0]["right"] is True
    assert {"code": "selector", "state": "error"} in data["findings"]


def test_every_finding_is_explained_in_the_documentation() -> None:
    anchors = set(re.findall(r"^### `([a-z0-9-]+)`", DOCUMENTATION.read_text(encoding="utf-8"), re.MULTILINE))
    sources = Path(probe.__file__).parent.glob("*.py")
    codes = set()
    for source in sources:
        codes |= set(re.findall(r'Finding\(\s*"([a-z0-9-]+)"', source.read_text(encoding="utf-8")))
        codes |= set(re.findall(r'_hiding\(\s*"([a-z0-9-]+)"', source.read_text(encoding="utf-8")))
    assert codes - anchors == set()
    assert anchors - codes == set()


def test_the_facts_of_a_recorded_pci_bus(tmp_path: Path) -> None:
    device = tmp_path / "bus" / "pci" / "devices" / "0000:03:00.0"
    device.mkdir(parents=True)
    for name, content in {
        "vendor": "0x8086\n",
        "device": "0x56a0\n",
        "class": "0x030000\n",
        "resource": "0x00000000a0000000 0x00000000a0ffffff 0x0000000000140204\n"
        "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
        "0x0000004000000000 0x000000400fffffff 0x000000000014220c\n",
    }.items():
        (device / name).write_text(content)
    (tmp_path / "i915").mkdir()
    (device / "driver").symlink_to(tmp_path / "i915")
    found = machine_module.look(sysfs=tmp_path, dri=tmp_path / "dri")
    assert found.gpus == (Gpu(0x56A0, "i915", 256 << 20, integrated=False),)
    assert found.render_nodes == ()


@pytest.mark.parametrize(
    ("release", "system"),
    [
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "debian"),
        ({"ID": "cachyos", "ID_LIKE": "arch"}, "arch"),
        ({"ID": "nixos"}, "nixos"),
        ({"ID": "nobara", "ID_LIKE": "rhel centos fedora"}, "fedora"),
        ({"ID": "void"}, "linux"),
    ],
)
def test_the_system_is_told_by_its_release_file(
    release: dict[str, str], system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: release)
    assert machine_module.system_name() == system


def test_the_verb_exits_by_severity(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    answers: dict[str, Callable[[], list[Finding]]] = {
        "2": lambda: examine(machine(loader="")),
        "1": lambda: examine(machine(free_disk_bytes=0)),
        "0": lambda: examine(machine()),
    }
    for code, answer in answers.items():
        monkeypatch.setattr("xpu_utils.commands.doctor.examine", lambda _machine, answer=answer: answer())
        monkeypatch.setattr("xpu_utils.commands.doctor.examine_devices", lambda _machine: [])
        assert main(["doctor", "--json"]) == int(code)
        assert json.loads(capsys.readouterr().out)
    assert main(["doctor", "--scan-packs", str(tmp_path / "nowhere")]) == 2


@pytest.fixture
def comfyui() -> Iterator[tuple[str, dict[str, Any]]]:
    """The address of a server that answers GET /xpu/hooks, and the answers by path."""
    answers: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(self.path)).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", answers
    server.shutdown()
    server.server_close()


def test_every_hook_of_a_running_comfyui_is_listed(comfyui: tuple[str, dict[str, Any]]) -> None:
    address, answers = comfyui
    hooks = [("free memory", "applied"), ("memory fraction", "stood down"), ("attention", "unavailable")]
    answers["/xpu/hooks"] = {"hooks": [{"name": name, "state": state, "reason": "so"} for name, state in hooks]}
    assert [(finding.code, finding.state) for finding in examine_server(address)] == [
        ("hook", State.OK),
        ("hook-stood-down", State.NOTE),
        ("hook-unavailable", State.NOTE),
    ]


@pytest.mark.parametrize("answer", [None, {"hooks": [{}]}, []])
def test_a_comfyui_without_this_pack_is_told(comfyui: tuple[str, dict[str, Any]], answer: Any) -> None:
    address, answers = comfyui
    if answer is not None:
        answers["/xpu/hooks"] = answer
    (finding,) = examine_server(address)
    assert finding.code == "hooks-unknown"
    assert finding.evidence


def test_without_a_running_comfyui_no_hook_is_claimed() -> None:
    (finding,) = examine_server("127.0.0.1:9")
    assert (finding.code, finding.state) == ("hooks-unknown", State.OK)
