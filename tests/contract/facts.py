"""What is known of a host: modules with their names, classes with their attributes, and who calls wrappers how."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from .signatures import Call


@dataclasses.dataclass
class ClassFacts:
    """What a class offers by itself; the rest is with its bases."""

    bases: list[str] = dataclasses.field(default_factory=list)
    """Dotted names."""
    methods: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Name -> kind and signature, each way in which it is defined: "(self, x)", "static (x)", "abstract (self)"."""
    attributes: list[str] = dataclasses.field(default_factory=list)
    """Of the class and of its instances."""
    given: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Attribute -> the names that its methods set on what that attribute holds."""
    classes: dict[str, ClassFacts] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class ModuleFacts:
    contents: list[str] = dataclasses.field(default_factory=list)
    """Of a package: the modules in it."""
    functions: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Name -> signatures, each way in which it is defined."""
    classes: dict[str, ClassFacts] = dataclasses.field(default_factory=dict)
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)
    """Names that stand for something else -> its dotted name."""
    values: list[str] = dataclasses.field(default_factory=list)
    items: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """Tables of classes by key, such as NODE_CLASS_MAPPINGS."""
    stars: list[str] = dataclasses.field(default_factory=list)
    """Modules of which it takes every name."""


@dataclasses.dataclass
class Wrapped:
    """Where the host lets wrappers or callbacks of a kind be called."""

    function: str = ""
    """The signature of what is wrapped, without its object; empty for callbacks."""
    calls: list[Call] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Facts:
    """A record of one version of the host."""

    version: str
    roots: list[str]
    """What can be imported from its folder."""
    modules: dict[str, ModuleFacts]
    unseen: list[str]
    """Modules that we touch and of which a partial checkout tells nothing."""
    wrapped: dict[str, Wrapped]
    """Kind of wrapper or callback -> how it is called."""
    partial: bool = False
    """Whether it is of single files only."""

    def save(self, path: Path) -> None:
        text = json.dumps(dataclasses.asdict(self, dict_factory=_without_empty), indent=1, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Facts:
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            data["version"],
            data.get("roots", []),
            {name: _module(entry) for name, entry in data.get("modules", {}).items()},
            data.get("unseen", []),
            {kind: _wrapped(entry) for kind, entry in data.get("wrapped", {}).items()},
            data.get("partial", False),
        )


def _without_empty(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if value not in ([], {}, (), "", False, 0)}


def _module(data: dict[str, Any]) -> ModuleFacts:
    return ModuleFacts(**{**data, "classes": {name: _class(entry) for name, entry in data.get("classes", {}).items()}})


def _class(data: dict[str, Any]) -> ClassFacts:
    return ClassFacts(**{**data, "classes": {name: _class(entry) for name, entry in data.get("classes", {}).items()}})


def _wrapped(data: dict[str, Any]) -> Wrapped:
    calls = [Call(**{**call, "keywords": tuple(call.get("keywords", ()))}) for call in data.get("calls", [])]
    return Wrapped(data.get("function", ""), calls)
