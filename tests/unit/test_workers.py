"""Workers without their ComfyUI: the device that each is left, whose end is its end, what it may write."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xpu_utils.serve.store import Store
from xpu_utils.workers import guard, temporary
from xpu_utils.workers.cluster import NoRay, connect
from xpu_utils.workers.files import write_whole
from xpu_utils.workers.server import Answer
from xpu_utils.workers.setup import CannotStart, Setup, comfyui_folder, device_binding, devices_of
from xpu_utils.workers.worker import Need, _files, _offers, _saved, _write_input


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


@pytest.mark.parametrize("device", ["gpu", "CPU", "mps", "xpu:99", "xpu:x", "cuda:2", "cpu:1", ""])
def test_what_is_no_device_here_is_a_sentence(device: str) -> None:
    with pytest.raises(CannotStart, match=r"is no device that a worker can have|is none of this machine's"):
        device_binding(device, {"CUDA_VISIBLE_DEVICES": "2,5"})


def test_each_device_is_used_once() -> None:
    assert devices_of("cpu, cpu,,xpu:1") == ("cpu", "xpu:1")


def test_only_folders_of_workers_that_are_gone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own, process = temporary.prefix("serve"), f"-{os.getpid()}-"
    gone = own.replace(process, f"-{2**22 + 1}-")  # no process has it
    left = {"xpu-nodes-serve-a-b", f"{own}x", f"xpu-nodes-serve-1-{2**22 + 1}-x", gone.replace("serve", "worker")}
    for name in (*left, f"{gone}x"):
        (tmp_path / name).mkdir()
    store = Store(tmp_path / "files")
    previews = Path(store._previews.name)
    assert {entry.name for entry in tmp_path.iterdir()} == {*left, previews.name, "files"}


def test_no_comfyui_is_one_sentence_that_says_what_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "main.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "other"))
    assert comfyui_folder(Setup()) == tmp_path / "other"
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
        assert process.wait(300) == 1


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out.png"])
def test_input_files_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of ComfyUI's input folder"):
        _write_input(tmp_path / "input", name, b"", anew=True)


def test_a_check_leaves_the_input_files_of_a_prompt_that_runs_and_the_next_prompt_gets_its_own(tmp_path: Path) -> None:
    _write_input(tmp_path, "a/b.png", b"old", anew=False)
    file = tmp_path / "a" / "b.png"
    opened = file.stat().st_ino
    for content, anew in ((b"old", True), (b"new", False)):
        _write_input(tmp_path, "a/b.png", content, anew=anew)
        assert (file.read_bytes(), file.stat().st_ino) == (b"old", opened)
    with file.open("rb") as reading:
        _write_input(tmp_path, "a/b.png", b"new", anew=True)
        assert reading.read() == b"old", "whoever has opened it, reads all of it"
    assert file.read_bytes() == b"new"
    assert [entry.name for entry in file.parent.iterdir()] == ["b.png"]


def test_an_address_where_nothing_listens_is_said_at_once() -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(NoRay, match="No Ray cluster could be used at"):
            connect(f"127.0.0.1:{bound.getsockname()[1]}")


@pytest.mark.parametrize(
    ("kind", "offered"),
    [
        ([["a.pt", "b\\c.pt"], {}], {"a.pt", "b/c.pt"}),
        (["COMBO", {"options": ["a.pt"]}], {"a.pt"}),
        ([[]], set()),  # of an empty folder
        (["COMBO", {"remote": {}}], {"a.pt", "b/c.pt", "d.pt"}),
        (["STRING", {"multiline": True}], {"a.pt", "b/c.pt", "d.pt"}),
        (["STRING"], {"a.pt", "b/c.pt", "d.pt"}),
    ],
)
def test_only_a_file_that_a_node_has_to_choose_from_is_lacking(kind: list[Any], offered: set[str]) -> None:
    node = {"input": {"required": {"name": kind}, "optional": {}}}
    assert {name for name in ("a.pt", "b/c.pt", "d.pt") if _offers(node, Need("Loader", "name", name))} == offered
    assert _offers({}, Need("Unknown", "name", "a.pt"))


def test_what_a_node_saved_and_did_not_show_is_a_result_too(tmp_path: Path) -> None:
    for name in ("output/of_before.bin", "output/again.bin", "output/shown.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"old")
    before = set(_saved(tmp_path))
    (tmp_path / "output" / "sub").mkdir()
    for name in ("again.bin", "sub/new.bin"):
        (tmp_path / "output" / name).write_bytes(b"new")
        os.utime(tmp_path / "output" / name, ns=(1, 1))
    image = {"filename": "shown.png", "subfolder": "", "type": "output"}
    answer = Answer("id", {"save": {"images": [image]}}, {}, "", 0.0, 0.0)
    found = {(file.subfolder, file.name, file.node_id): file.content for file in _files(tmp_path, answer, before)}
    assert found == {
        ("", "shown.png", "save"): b"old",
        ("", "again.bin", ""): b"new",
        ("sub", "new.bin", ""): b"new",
    }
    assert [file.name for file, _ in _saved(tmp_path)] == ["shown.png"]


def test_a_file_lasts_with_all_folders_that_were_made_for_it_before_it_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, synced = tmp_path / "a" / "b" / "c.png", []

    def sync(number: int) -> None:
        synced.append((os.fstat(number).st_ino, file.exists()))

    monkeypatch.setattr("os.fsync", sync)
    write_whole(file, b"x", lasting=False)
    assert synced == []
    write_whole(file, b"x")
    assert synced.pop(0)[0] == file.stat().st_ino
    assert synced == [(file.parent.stat().st_ino, True)]
    synced.clear()
    write_whole(file := tmp_path / "d" / "e" / "f.png", b"y")
    assert synced.pop(0) == (file.stat().st_ino, False)
    assert {*synced} == {(folder.stat().st_ino, True) for folder in [*file.parents][:3]}
