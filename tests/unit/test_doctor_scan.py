"""The scan of other packs: what counts as insisting on CUDA, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xpu_utils.doctor import scan


@pytest.mark.parametrize(
    "code",
    [
        "model.cuda()",
        "x.cuda(0)",
        "x.cuda(device=index)",
        'x.to("cuda")',
        'torch.zeros(1, device="cuda:0")',
        'torch.load(path, map_location="cuda")',
        'torch.device("cuda", 0)',
        'torch.autocast("cuda")',
        'torch.autocast(device_type="cuda")',
        'torch.Generator("cuda")',
        'def load(path, device="cuda"): ...',
        'def load(path, *, dtype=None, load_device="cuda:1"): ...',
        'self.device = "cuda"',
        'DEVICE: str = "cuda"',
        'device = "cuda" if torch.cuda.is_available() else "cpu"',
        'x.to("cpu" if small else "cuda")',
        "torch.cuda.synchronize()",
        "torch.cuda.empty_cache()",
        "torch.cuda.Stream()",
        "torch.cuda.current_device()",
        "torch.cuda.get_device_properties(0)",
    ],
)
def test_each_way_to_insist_on_cuda_is_one_place(code: str, tmp_path: Path) -> None:
    (tmp_path / "pack.py").write_text(f"import torch\n\n{code}\n")
    assert [(place.pack, place.line) for place in scan.scan(tmp_path)] == [("pack.py", 3)]


@pytest.mark.parametrize(
    "code",
    [
        "if torch.cuda.is_available(): pass",
        "count = torch.cuda.device_count()",
        'x.to("cpu")',
        "x.to(device)",
        'backend = "cuda"',
        'devices = ["cuda", "cpu"]',
        'if device == "cuda": pass',
        "cuda()",
        'def load(path, device="cpu", kind="cuda"): ...',
        "# model.cuda()",
        "this is ( not python",
    ],
)
def test_questions_and_names_are_no_demands(code: str, tmp_path: Path) -> None:
    (tmp_path / "pack.py").write_text(code)
    assert scan.scan(tmp_path) == []


def test_packs_that_insist_on_cuda_are_named_with_file_and_line(tmp_path: Path) -> None:
    pack = tmp_path / "some-pack"
    pack.mkdir()
    (pack / "nodes.py").write_text('import torch\nmodel.cuda()\n\nif torch.cuda.is_available():\n    x.to("cuda")\n')
    (pack / ".venv").mkdir()
    (pack / ".venv" / "torch.py").write_text("x.cuda()")
    own = tmp_path.parent / "own"
    own.mkdir(exist_ok=True)
    (own / "nodes.py").write_text("x.cuda()")
    (tmp_path / "ours").symlink_to(own)
    assert {place.pack for place in scan.scan(tmp_path)} == {"some-pack", "ours"}
    places = scan.scan(tmp_path, own=own.resolve())
    assert [(place.file, place.line) for place in places] == [("nodes.py", 2), ("nodes.py", 5)]
    (finding,) = scan.findings(places)
    assert finding.what == "some-pack insists on CUDA in 2 places"
    assert "nodes.py:2 model.cuda()" in finding.evidence


def test_what_is_not_there_or_cannot_be_read_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scan.scan(tmp_path / "missing") == []
    pack = tmp_path / "pack"
    (pack / "folder.py").mkdir(parents=True)
    (pack / "broken.py").symlink_to("nowhere.py")
    (pack / "locked.py").write_text("x.cuda()")
    (pack / "sound.py").write_text("x.cuda()")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "gone.py").symlink_to("nowhere.py")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "named.py").mkdir()
    (tmp_path / "named.py" / "inside.py").write_text("x.cuda()")
    (pack / "listed.py").write_text("x.cuda()")
    read_text, stat = Path.read_text, Path.stat

    def refuse(path: Path, **options: str) -> str:  # the superuser may read everything
        if path.name == "locked.py":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, **options)

    def refuse_to_look(path: Path, **options: bool) -> os.stat_result:
        if path.name == "listed.py":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setattr(Path, "stat", refuse_to_look)
    assert [place.file for place in scan.scan(tmp_path)] == ["inside.py", "sound.py"]
