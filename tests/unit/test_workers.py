"""Workers without their ComfyUI: the device that each is left, whose end is its end, what it may write."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from xpu_utils.workers import guard
from xpu_utils.workers.cluster import NoRay, connect
from xpu_utils.workers.setup import CannotStart, Setup, comfyui_folder, device_binding
from xpu_utils.workers.worker import _write_input


@pytest.mark.parametrize(
    ("device", "selector", "left"),
    [
        ("xpu:1", "", "level_zero:1"),
        ("xpu:1", "level_zero:0,3", "level_zero:3"),
        ("xpu:0", "!level_zero:0", "level_zero:1"),
    ],
)
def test_a_worker_is_left_its_gpu_as_the_selector_of_its_machine_counts_it(
    device: str, selector: str, left: str
) -> None:
    assert device_binding(device, {"ONEAPI_DEVICE_SELECTOR": selector}) == ((), {"ONEAPI_DEVICE_SELECTOR": left})


def test_other_devices_are_left_in_their_own_words() -> None:
    assert device_binding("cpu", {}) == (("--cpu",), {})
    assert device_binding("cuda:1", {}) == ((), {"CUDA_VISIBLE_DEVICES": "1"})
    assert device_binding("cuda:1", {"CUDA_VISIBLE_DEVICES": "2,5"}) == ((), {"CUDA_VISIBLE_DEVICES": "5"})


def test_no_comfyui_is_one_sentence_that_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="holds no ComfyUI: name its folder with --comfyui"):
        comfyui_folder(Setup(comfyui=str(tmp_path)))


def test_a_program_ends_with_who_started_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import threading\nprint('runs', flush=True)\nthreading.Event().wait()\n")
    line = [sys.executable, guard.__file__, str(program)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "runs\n"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(30) == 1


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out.png"])
def test_input_files_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of ComfyUI's input folder"):
        _write_input(tmp_path / "input", name, b"")


def test_an_address_where_nothing_listens_is_said_at_once() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(NoRay, match="No Ray cluster could be used at"):
            connect(f"127.0.0.1:{bound.getsockname()[1]}")
