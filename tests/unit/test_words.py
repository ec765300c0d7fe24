"""What users read holds no word that only readers of the source know."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("nodes", "xpu_utils") for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "web" / "docs").glob("*.md")])

WORDS = re.compile(
    r"\b(hooks?|rungs?|ladder|patchers?|st(?:oo|an)ds? down|in force|upstream|placed (?:model|object|VAE)s?|"
    r"weights resident|resident share|sampled from the host|operator missing|something to say|pageable|"
    r"attention budget|host memory)\b",
    re.IGNORECASE,
)
FOR_PROGRAMS = {"stood down"}
"""Values of an interface: GET /xpu/hooks."""


def sentences(source: str) -> Iterator[str]:
    """The texts of a module that are longer than a word, f-strings by their fixed parts, without docstrings."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in docstrings else None
        if isinstance(text, str) and " " in text and text not in FOR_PROGRAMS:
            yield text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_s_sentences_are_for_users(path: Path) -> None:
    assert [text for text in sentences(path.read_text(encoding="utf-8")) if WORDS.search(text)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_is_for_users(path: Path) -> None:
    text = re.sub(r"`[^`\n]+`|```.*?```|\]\([^)]+\)", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert WORDS.findall(text) == []


def test_the_texts_of_nodes_and_panel_are_for_users() -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "locales" / "en").glob("*.json"))]
    assert all(json.loads(text) for text in texts)
    assert WORDS.findall("\n".join(texts)) == []
