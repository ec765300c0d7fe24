"""The doctor's command: its exit codes, its report, and what a running ComfyUI adds."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from xpu_utils.__main__ import main
from xpu_utils.commands import doctor
from xpu_utils.doctor import probe
from xpu_utils.doctor.examine import as_data, examine
from xpu_utils.doctor.findings import State
from xpu_utils.doctor.machine import Machine
from xpu_utils.doctor.server import examine_server
from xpu_utils.machine.devices import find_devices
from xpu_utils.selftest.operations import TOLERANCES, Result, operations

from .healthy_machine import NOTHING, host, machine

NOBODY = "127.0.0.1:9"


def run_verb(*arguments: str, look: Callable[[], Machine]) -> tuple[int, str]:
    """`doctor` with these arguments on another machine, whose devices compute rightly."""
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    sound = probe.Run((Result("matrix product", "fp32", 0.0),), 0, "")
    return doctor.run(parser.parse_args(["doctor", *arguments]), look=look, check=lambda _device, everything: sound)


def test_the_verb_exits_by_severity(tmp_path: Path) -> None:
    for code, looked in ((2, machine(loader="", inventory=NOTHING)), (1, machine(free_disk_bytes=0)), (0, machine())):
        found, text = run_verb("--json", "--server", NOBODY, look=lambda looked=looked: looked)
        assert found == code
        assert json.loads(text)
    assert main(["doctor", "--scan-packs", str(tmp_path / "nowhere")]) == 2


@pytest.mark.parametrize("size", ["1024", "1024x1024x81x2"])
def test_what_is_no_size_is_refused_before_comfyui_is_asked(size: str, tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    found, text = run_verb(str(tmp_path / "model.safetensors"), "--size", size, look=machine)
    assert (found, text) == (2, f"doctor: {size!r} is no size, write 1024x1024, or 832x480x81 for a video of 81 frames")
    assert run_verb("--size", "8x8", look=machine)[0] == 2, "of no file"


def test_what_a_file_holds_is_told_in_json_too(tmp_path: Path) -> None:
    save_file({"blocks.0.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    file, here = str(tmp_path / "model.safetensors"), find_devices()
    found, text = run_verb(file, "--json", look=lambda: machine(inventory=here))
    assert found == 0
    contents = [[part["content"] for part in one["parts"]] for one in json.loads(text)]
    assert contents == [["a diffusion model"]] * len(here.devices)


def test_a_needed_device_that_is_missing_has_an_exit_code_of_its_own() -> None:
    found, text = run_verb("--need", "xpu", "--server", NOBODY, look=lambda: machine(inventory=NOTHING))
    assert found == doctor.NEEDED_IS_MISSING
    assert "No xpu device can be used" in text
    found, text = run_verb("--need", "xpu", "--server", NOBODY, look=machine)
    assert (found, "can be used" in text) == (0, False)


def test_the_self_test_is_run_to_its_end_and_leaves_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["doctor", "--self-test", "--server", NOBODY])
    assert "xpu-self-test.json is ready to be attached." in capsys.readouterr().out
    data = json.loads((tmp_path / "xpu-self-test.json").read_text())
    assert {"code": "kernel", "state": "ok"} in data["findings"]
    assert len(data["numbers"]["cpu"]) == len(operations()) * len(TOLERANCES)
    assert all(result["right"] for result in data["numbers"]["cpu"])


def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xpu-self-test.json").mkdir()
    code, text = run_verb("--self-test", look=lambda: pytest.fail("the machine was looked at"))
    assert code == 2
    assert "cannot be written here (Is a directory), change to a folder of yours." in text


@pytest.fixture
def comfyui() -> Iterator[tuple[str, dict[str, Any]]]:
    """The address of a server that answers GET requests, and the answers by path."""
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


def test_what_only_a_running_comfyui_knows_is_added(
    comfyui: tuple[str, dict[str, Any]],
) -> None:
    address, answers = comfyui
    inside = host(
        cpu_argument=True,
        device_type="cpu",
        neighbours=(("OmniXPU", "computes attention"),),
        largest_model_bytes=30 << 30,
        hooks=(("free memory", "applied", "so"), ("attention", "stood down", "so")),
    )
    answers["/xpu/doctor"] = {"findings": as_data(examine(machine(host=inside)), "debian")}
    code, text = run_verb("--json", "--server", address, look=lambda: machine(host=None))
    assert code == 1
    found = [entry for entry in json.loads(text) if entry["code"] != "kernel"]
    assert found == sorted(found, key=lambda entry: ["error", "warning", "note", "ok"].index(entry["state"]))
    by_code = {entry["code"]: entry for entry in found}
    assert len(by_code) == len(found), "what both found is told once"
    assert by_code["started-with-cpu"]["fix"] == "Start ComfyUI without --cpu."
    assert {"neighbour", "ram-small", "hook", "hook-stood-down", "device"} <= set(by_code)


@pytest.mark.parametrize("answer", [None, {"findings": [{}]}, {"findings": [{"state": "bad"}]}, []])
def test_a_comfyui_without_this_pack_is_told(comfyui: tuple[str, dict[str, Any]], answer: Any) -> None:
    address, answers = comfyui
    if answer is not None:
        answers["/xpu/doctor"] = answer
    (finding,) = examine_server(address)
    assert finding.code == "comfyui-unknown"
    assert finding.evidence


@pytest.mark.parametrize("line", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_what_is_no_web_server_is_told(line: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            connection.recv(4096)
            connection.sendall(line)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        (finding,) = examine_server(f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join()
    assert finding.code == "comfyui-unknown"


def test_without_a_running_comfyui_nothing_of_it_is_claimed() -> None:
    (finding,) = examine_server(NOBODY)
    assert (finding.code, finding.state) == ("comfyui-unknown", State.NOTE)
