"""Our own code as it is written: files, functions and classes, and how one file's names are found from another."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from .host import dotted, statements, targets
from .signatures import Call, Signature

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclasses.dataclass(frozen=True)
class OwnFunction:
    """A function or lambda of ours."""

    file: File
    node: Function
    signature: Signature
    """What it still takes, after what it was given."""

    @classmethod
    def of(cls, file: File, node: Function) -> OwnFunction:
        return cls(file, node, signature(file, node))

    def bound(self, given: Call) -> OwnFunction:
        """After it was given some of its arguments."""
        return dataclasses.replace(self, signature=self.signature.bound(given))


@dataclasses.dataclass(frozen=True)
class OwnClass:
    file: File
    node: ast.ClassDef

    @functools.cached_property
    def methods(self) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
        found = [node for node in self.node.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        return {node.name: node for node in reversed(found)}

    @functools.cached_property
    def attributes(self) -> set[str]:
        """What it sets on itself and its instances, beside methods."""
        named = {
            target.id for statement in self.node.body for target in targets(statement) if isinstance(target, ast.Name)
        }
        return named | {
            node.attr
            for node in ast.walk(self.node)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }


class File:
    """One file of the pack."""

    def __init__(self, pack: Pack, path: Path) -> None:
        self.pack, self.path = pack, path
        self.tree = ast.parse(path.read_text(encoding="utf-8"))

    @property
    def name(self) -> str:
        """As it is named to a reader."""
        return self.path.relative_to(self.pack.root).as_posix()

    @functools.cached_property
    def top(self) -> dict[str, ast.stmt]:
        """What defines the file's own names: functions, classes and assignments."""
        found: dict[str, ast.stmt] = {}
        for statement in statements(self.tree.body):
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found[statement.name] = statement
            for target in targets(statement):
                if isinstance(target, ast.Name):
                    found[target.id] = statement
        return found

    @functools.cached_property
    def own_imports(self) -> dict[str, tuple[Path, str]]:
        """Name -> the file of ours, and the name there; an empty one for the file itself."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = self.path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                for entry in node.names:
                    inside = _file(folder / entry.name)
                    target = (inside, "") if inside else (_file(folder), entry.name)
                    if target[0] is not None:
                        found[entry.asname or entry.name] = target
        return found

    @functools.cache  # noqa: B019 (lives as long as the pack)
    def asks(self, node: ast.stmt, question: Callable[[ast.Call], bool]) -> bool:
        """Whether there is such a call in a function of this file."""
        return any(isinstance(inner, ast.Call) and question(inner) for inner in ast.walk(node))


class Pack:
    """All files that the pack ships."""

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = [root / name for name in ("nodes", "xpu_utils")]
        paths = [*root.glob("*.py"), *(path for folder in folders for path in sorted(folder.rglob("*.py")))]
        self.files = {path: File(self, path) for path in paths}

    def defined(self, file: File, name: str) -> tuple[File, ast.stmt] | None:
        """Where a name that a file uses is defined in our code."""
        first, _, rest = name.partition(".")
        if first in file.own_imports:
            path, there = file.own_imports[first]
            target = self.files.get(path)
            full = ".".join(filter(None, [there, rest]))
            return self.defined(target, full) if target is not None else None
        return (file, file.top[first]) if first in file.top and not rest else None


def signature(file: File, node: Function) -> Signature:
    """What a function of ours takes; `Call(NAMES, arguments, keywords)` says what its `*arguments` are to it."""
    taken = Signature.of(node.args)
    for call in ast.walk(node) if taken.more_positional else ():
        if isinstance(call, ast.Call) and dotted(call.func) == "Call" and len(call.args) == 3:
            names, given, _ = call.args
            if node.args.vararg is not None and dotted(given) == node.args.vararg.arg:
                constant = file.top.get(dotted(names))
                listed = constant.value if isinstance(constant, ast.Assign) else names
                return dataclasses.replace(taken, read_as=tuple(ast.literal_eval(listed)))
    return taken


def _file(path: Path) -> Path | None:
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)
