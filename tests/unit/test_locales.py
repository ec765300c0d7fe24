"""Every language says what English says, and the panel says nothing that no language has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from xpu_utils.recovery.faults import FaultKind
from xpu_utils.recovery.ladder import Rung

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
OTHERS = sorted(path.name for path in LOCALES.iterdir() if path.name != "en")
FILES = sorted(path.name for path in (LOCALES / "en").iterdir())

WORDS = "xpuWords"
"""Where the words of the server are, which speaks English; its sentences stay English."""

_KEYS = re.compile(r'\btext\((?:[^"(),]+\? )?"([^"]+)"(?: : "([^"]+)")?')


_STAGES = re.compile(
    r'STAGE\b[^=\n]* = (?:"XPU [^"]+", )?"([^"]+)"|(?:stage=|run_stage\(|_staged\(|_carried\()"([^"]+)"'
)
"""How a stage is named in the source."""


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
    english = texts("en", name)
    other = {key: text for key, text in texts(language, name).items() if key[0] != WORDS}
    assert other.keys() == english.keys()
    for key, text in other.items():
        assert text.strip(), key
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", english[key])), key


def test_every_text_that_the_panel_asks_for_is_there() -> None:
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "web").glob("*.js")]
    asked = {key for script in scripts for keys in _KEYS.findall(script) for key in keys if key}
    assert len(asked) > 40
    assert asked <= {key for _, key in texts("en", "main.json")}


def test_the_categories_that_no_other_pack_has_are_there() -> None:
    """Those of ComfyUI's own nodes have the words of ComfyUI."""
    settings = (ROOT / "web" / "settings.js").read_text(encoding="utf-8")
    assert {key[1] for key in texts("en", "main.json") if key[0] == "settingsCategories"} == set(
        re.findall(r'category: \["XPU Nodes", "(\w+)"', settings)
    )
    (names,) = re.findall(
        r'f"XPU/\{name\}" for name in \((.+?)\)', (ROOT / "nodes" / "base.py").read_text(encoding="utf-8")
    )
    nodes = set(re.findall(r'"(\w+)"', names))
    assert {key[1] for key in texts("en", "main.json") if key[0] == "nodeCategories"} == nodes - {"loaders", "sampling"}


@pytest.mark.parametrize("language", OTHERS)
def test_a_node_s_text_that_names_an_input_gives_its_label_too(language: str) -> None:
    for node in json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")).values():
        for name, shown in node.get("inputs", {}).items():
            if re.search(rf"(?<![A-Za-z_]){name}(?![A-Za-z_])", node["description"]):
                assert shown["name"] in node["description"], name


@pytest.mark.parametrize("language", OTHERS)
def test_a_language_has_a_word_for_every_stage_fault_and_way_on(language: str) -> None:
    known = {key[1] for key in texts(language, "main.json") if key[0] == WORDS}
    assert known == {*STAGES, *(kind.value for kind in FaultKind), *(rung.value for rung in Rung)}


STAGES = {
    stage
    for path in (*(ROOT / "nodes").glob("*.py"), *(ROOT / "xpu_utils").rglob("*.py"))
    for names in _STAGES.findall(path.read_text(encoding="utf-8"))
    for stage in names
    if stage
}
