"""The pictures that the documents show: there, in true colour, large enough to read and small enough to clone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {
    (document.parent / path).resolve()
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    for path in re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", document.read_text(encoding="utf-8"))
}
LARGEST_BYTES = 400 << 10


def test_every_picture_is_shown_somewhere() -> None:
    assert set((ROOT / "docs" / "images").glob("*.png")) == SHOWN


@pytest.mark.parametrize("picture", sorted(SHOWN), ids=lambda picture: picture.name)
def test_a_picture_is_in_true_colour_and_of_a_good_size(picture: Path) -> None:
    with Image.open(picture) as image:
        assert image.mode in ("RGB", "RGBA")
        assert image.width >= 1280
    assert picture.stat().st_size <= LARGEST_BYTES
