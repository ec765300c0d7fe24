"""`make demo`: one command, a picture and a report of where each part ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.harness import demo
from tests.harness.hosts import host_path
from tests.training import checkpoint

SMALL = {"width": 64, "height": 64, "steps": 4}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's files, which are the user's, stay as they are; its picture is a small one."""
    workflow = json.loads(demo.WORKFLOW.read_text(encoding="utf-8"))
    for node in workflow.values():
        node["inputs"].update({name: value for name, value in SMALL.items() if name in node["inputs"]})
    (tmp_path / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    monkeypatch.setattr(demo, "WORKFLOW", tmp_path / "workflow.json")
    monkeypatch.setattr(demo, "OUT", tmp_path / "out")
    monkeypatch.setattr(demo, "BASE", tmp_path / "base")


@pytest.mark.core
def test_the_demo_leaves_pictures_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "SUBJECTS", ("octopus", "rocket"))
    assert demo.main(["--device", "xpu:7"]) == 0
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width == 4 * SMALL["width"]  # two subjects, one of them again on a card and through its loss
    stages = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert [stage["name"] for stage in stages[:5]] == ["load checkpoint", *["encode text"] * 2, "sample", "decode"]
    sampled = stages[3]
    assert (sampled["requested"], sampled["effective"]) == ("xpu:7", "cpu")
    assert sampled["seconds"] > 0
    assert "xpu:7 is not on this machine" in sampled["reason"]
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == list(demo.COLUMNS)
    assert "own nodes, with the switch on: the picture is the same to the bit" in shown
    assert "sampling ended on xpu:1: the picture is the same to the bit" in shown
    assert "report.json" in shown


def test_without_the_trained_weights_the_demo_draws_with_random_ones_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint.trained, "__defaults__", (tmp_path,))
    (tmp_path / "training.json").write_text(json.dumps({"sha256": {"emoji": ""}}), encoding="utf-8")
    assert demo._checkpoint() == demo.RANDOM
    assert "the trained weights are missing or damaged" in capsys.readouterr().err


def test_the_user_s_own_comfyui_is_taken_unless_a_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cached = host_path("0.3.75")
    monkeypatch.delenv("HOST_VERSION", raising=False)
    monkeypatch.setenv("COMFYUI_PATH", str(host_path("0.3.52")))
    assert host_path() == host_path("0.3.52").resolve()
    assert host_path("0.3.75") == cached


@pytest.mark.parametrize(
    ("device", "environment", "says"),
    [
        ("cpu", {"HOST_VERSION": "9.9"}, "HOST_VERSION: 9.9 cannot be had here, use one of 0.3.75, 0.3.52."),
        (
            "cpu",
            {"COMFYUI_PATH": "/nowhere"},
            "COMFYUI_PATH: /nowhere holds no whole ComfyUI (main.py is missing), point it at a checkout.",
        ),
        ("gpu one", {}, "'gpu one' is not a device name, use auto, cpu or a name such as xpu:0."),
    ],
)
def test_what_the_demo_cannot_use_is_refused_in_one_sentence(
    device: str,
    environment: dict[str, str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HOST_VERSION", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert demo.main(["--device", device]) == 1
    assert capsys.readouterr().err.strip().endswith(says)
