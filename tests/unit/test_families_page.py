"""The page of models, and the names that `make families` takes."""

from __future__ import annotations

import sys

import pytest

from tests.families.__main__ import main
from tests.families.page import PAGE, page


def test_the_page_says_what_was_found() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), "make families"


def test_names_of_no_family_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["families", "SD15", "sd15", "", "mixed-fp8"])
    monkeypatch.setenv("COMFYUI_PATH", "/nowhere")
    with pytest.raises(SystemExit, match=r"^Families: docs/models\.md has no '', 'sd15'; docs/models\.md has"):
        main()
