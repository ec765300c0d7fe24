"""Every language says what English says, and the panel says nothing that no language has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
OTHERS = sorted(path.name for path in LOCALES.iterdir() if path.name != "en")
FILES = sorted(path.name for path in (LOCALES / "en").iterdir())

_KEYS = re.compile(r'\btext\((?:[^"(),]+\? )?"([^"]+)"(?: : "([^"]+)")?')


def texts(language: str, name: str) -> dict[tuple[str, ...], str]:
    """The texts of a file by the keys that lead to them."""

    def leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        if isinstance(value, str):
            yield path, value
        else:
            for key, inner in value.items():
                yield from leaves(inner, (*path, key))

    return dict(leaves(json.loads((LOCALES / language / name).read_text(encoding="utf-8")), ()))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", OTHERS)
def test_a_language_has_the_texts_of_english_with_the_same_places_to_fill(language: str, name: str) -> None:
    english, other = texts("en", name), texts(language, name)
    assert other.keys() == english.keys()
    for key, text in other.items():
        assert text.strip(), key
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), key


def test_every_text_that_the_panel_asks_for_is_there() -> None:
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "web").glob("*.js")]
    asked = {key for script in scripts for keys in _KEYS.findall(script) for key in keys if key}
    assert len(asked) > 40
    assert asked <= {key for _, key in texts("en", "main.json")}
