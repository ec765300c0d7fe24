"""Reads the facts of a host from its source, without importing any of it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from .facts import ClassFacts, Facts, ModuleFacts, Wrapped
from .signatures import Call, Signature

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_NEVER_IMPORTED = {"tests", "tests-unit", "custom_nodes", "models", "input", "output", "main"}


class Host:
    """A checkout of ComfyUI; one without `main.py` holds single files, and says nothing of the others."""

    def __init__(self, folder: Path) -> None:
        """Raises: ValueError: there is no ComfyUI."""
        version = folder / "comfyui_version.py"
        if not version.is_file():
            raise ValueError(f"{folder} holds no comfyui_version.py, point COMFYUI_PATH at a ComfyUI checkout.")
        self._folder = folder
        self.partial = not (folder / "main.py").is_file()
        self.version = version.read_text(encoding="utf-8").split('__version__ = "')[1].split('"')[0]
        self._modules: dict[str, ModuleFacts | None] = {}

    @functools.cached_property
    def roots(self) -> list[str]:
        found = {path.stem for path in self._folder.glob("*.py")}
        found |= _packages(self._folder)
        return sorted(found - _NEVER_IMPORTED)

    def module(self, name: str) -> ModuleFacts | None:
        """A module's facts; None where it is absent."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def _read(self, name: str) -> ModuleFacts | None:
        parent, _, _ = name.rpartition(".")
        if parent:
            self.module(parent)  # which tells what is in it
        path = self._folder.joinpath(*name.split("."))
        file = next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
        facts = ModuleFacts() if file is None else _Module(name, file).facts
        facts.contents = sorted({found.stem for found in path.glob("*.py")} | _packages(path))
        return None if file is None and not facts.contents else facts

    def facts(self) -> Facts:
        """Of every module that was asked for so far."""
        wrapped: dict[str, Wrapped] = {}
        for file in sorted((self._folder / "comfy").rglob("*.py")):
            if re.search(r"\b(WrappersMP|CallbacksMP)\.", file.read_text(encoding="utf-8")):
                _note_wrapped(_parsed(file), wrapped)
        absent = sorted(name for name, module in self._modules.items() if module is None) if self.partial else []
        return Facts(
            self.version,
            self.roots,
            {name: module for name, module in sorted(self._modules.items()) if module is not None},
            absent,
            wrapped,
            self.partial,
        )


def _packages(folder: Path) -> set[str]:
    return {inner.name for inner in folder.glob("*/") if inner.is_dir() and next(inner.rglob("*.py"), None)}


@functools.lru_cache(maxsize=64)
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """All statements of a block and of the ifs, loops and tries in it, but not of functions and classes."""
    for statement in body:
        yield statement
        if not isinstance(statement, (*_FUNCTIONS, ast.ClassDef)):
            for inner in ("body", "orelse", "finalbody"):
                yield from statements(getattr(statement, inner, []))
            for handler in getattr(statement, "handlers", []):
                yield from statements(handler.body)


def dotted(node: ast.expr) -> str:
    """`a.b.c`; empty for what is no such chain."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return owner and f"{owner}.{node.attr}"
    if isinstance(node, ast.Subscript):  # Generic[T]
        return dotted(node.value)
    return ""


def targets(statement: ast.stmt) -> list[ast.expr]:
    """What a statement assigns to."""
    if isinstance(statement, ast.Assign):
        return [
            leaf
            for target in statement.targets
            for leaf in (target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target])
        ]
    if isinstance(statement, (ast.AnnAssign, ast.AugAssign, ast.For)):
        return [statement.target]
    if isinstance(statement, ast.With):
        return [item.optional_vars for item in statement.items if item.optional_vars is not None]
    return []


class _Module:
    """Gathers a module's facts."""

    def __init__(self, name: str, file: Path) -> None:
        tree = _parsed(file)
        self._name = name
        self._package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        self.facts = ModuleFacts()
        values: dict[str, set[str]] = {}
        for statement in statements(tree.body):
            if isinstance(statement, _FUNCTIONS):
                _add(self.facts.functions, statement.name, str(Signature.of(statement.args)))
            elif isinstance(statement, (ast.Import, ast.ImportFrom)):
                self._import(statement)
            for target in targets(statement):
                if isinstance(target, ast.Name):
                    values.setdefault(target.id, set()).add(self._alias(statement))
                    self._note_items(target.id, statement)
        for name, meanings in values.items():
            (meaning, *others) = meanings
            if meaning and not others:
                self.facts.aliases.setdefault(name, meaning)
            elif name not in self.facts.functions:
                self.facts.values.append(name)
        for statement in statements(tree.body):
            if isinstance(statement, ast.ClassDef):
                self.facts.classes.setdefault(statement.name, self._class(statement))
        self._note_arguments(tree)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        if isinstance(statement, ast.Import):
            for name in statement.names:
                known_as = name.asname or name.name.partition(".")[0]
                self.facts.aliases[known_as] = name.name if name.asname else known_as
            return
        source = statement.module or ""
        if statement.level:
            package = self._package.split(".")
            source = ".".join([*package[: len(package) - statement.level + 1], *filter(None, [source])])
        for name in statement.names:
            if name.name == "*":
                self.facts.stars.append(source)
            else:
                self.facts.aliases.setdefault(name.asname or name.name, f"{source}.{name.name}")

    def _alias(self, statement: ast.stmt) -> str:
        """What `name = other.name` stands for; empty where it is a value."""
        value = statement.value if isinstance(statement, ast.Assign) else None
        return self._meaning(dotted(value)) if value is not None and not isinstance(value, ast.Subscript) else ""

    def _meaning(self, name: str) -> str:
        """The dotted name of what a name in this module stands for."""
        first, _, rest = name.partition(".")
        if first in self.facts.aliases:
            return ".".join(filter(None, [self.facts.aliases[first], rest]))
        return name and f"{self._name}.{name}"

    def _note_items(self, name: str, statement: ast.stmt) -> None:
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Dict) and name.endswith("CLASS_MAPPINGS"):
            self.facts.items[name] = {
                key.value: self._meaning(dotted(entry))
                for key, entry in zip(value.keys, value.values, strict=True)
                if isinstance(key, ast.Constant) and dotted(entry)
            }

    def _note_arguments(self, tree: ast.Module) -> None:
        """Command-line arguments are the attributes of `args`."""
        flags = [
            _flag(node) for node in ast.walk(tree) if isinstance(node, ast.Call) and _attribute(node) == "add_argument"
        ]
        if flags and "args" in self.facts.values:
            self.facts.values.remove("args")
            self.facts.classes["Arguments"] = ClassFacts(attributes=sorted(set(flags)))
            self.facts.aliases["args"] = f"{self._name}.Arguments"

    def _class(self, node: ast.ClassDef) -> ClassFacts:
        facts = ClassFacts(bases=[self._meaning(dotted(base)) for base in node.bases if dotted(base)])
        attributes: set[str] = set()
        for statement in statements(node.body):
            if isinstance(statement, ast.ClassDef):
                facts.classes.setdefault(statement.name, self._class(statement))
            elif isinstance(statement, _FUNCTIONS):
                self._method(statement, facts)
                attributes |= _set_on(statement, "self", facts.given)
                attributes |= _set_on(statement, node.name, {})
            attributes |= {target.id for target in targets(statement) if isinstance(target, ast.Name)}
        known = {*facts.methods, *facts.classes}
        facts.attributes = sorted(attributes - known)
        facts.given = {name: sorted(set(names)) for name, names in facts.given.items()}
        return facts

    def _method(self, node: ast.FunctionDef | ast.AsyncFunctionDef, facts: ClassFacts) -> None:
        decorators = {dotted(entry).rpartition(".")[2] for entry in node.decorator_list}
        if "property" in decorators or any("property" in name for name in decorators) or "setter" in decorators:
            facts.attributes.append(node.name)
        elif "overload" not in decorators:
            kinds = {"staticmethod": "static ", "classmethod": "class "}
            kind = next((text for name, text in kinds.items() if name in decorators), "")
            abstract = "abstract " if "abstractmethod" in decorators or _only_raises(node) else ""
            _add(facts.methods, node.name, f"{abstract}{kind}{Signature.of(node.args)}")


def _add(functions: dict[str, list[str]], name: str, text: str) -> None:
    known = functions.setdefault(name, [])
    if text not in known:
        known.append(text)


def _only_raises(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    body = [statement for statement in node.body if not isinstance(statement, ast.Expr)]
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.unparse(body[0])


def _attribute(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _flag(call: ast.Call) -> str:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    flags = [entry.value for entry in call.args if isinstance(entry, ast.Constant) and isinstance(entry.value, str)]
    destination = named.get("dest")
    if isinstance(destination, ast.Constant):
        return str(destination.value)
    return max(flags, key=lambda flag: flag.startswith("--"), default="").lstrip("-").replace("-", "_")


def _set_on(function: ast.AST, owner: str, given: dict[str, list[str]]) -> set[str]:
    """The attributes that a function sets on its object, and into `given` those that it sets on these."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            first, *rest = dotted(node).split(".")
            if first == owner and len(rest) == 1:
                found.add(rest[0])
            elif first == owner and len(rest) == 2:
                given.setdefault(rest[0], []).append(rest[1])
    return found


def _note_wrapped(tree: ast.Module, wrapped: dict[str, Wrapped]) -> None:
    """Notes how a module calls wrappers and callbacks, and what the host wraps where that is its own."""
    for owner in (tree, *(node for node in statements(tree.body) if isinstance(node, ast.ClassDef))):
        functions = {node.name: node for node in statements(owner.body) if isinstance(node, _FUNCTIONS)}
        for function in functions.values():
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and _attribute(node) in ("new_class_executor", "new_executor"):
                    entry = wrapped.setdefault(_kind(node, "WrappersMP"), Wrapped())
                    given = dotted(node.args[0]).removeprefix("self.")
                    if given in functions:
                        bound = Call(1 if isinstance(owner, ast.ClassDef) else 0)
                        entry.function = str(Signature.of(functions[given].args).bound(bound))
                    entry.calls += _new(_calls(function, "execute"), entry.calls)
                if isinstance(node, ast.For) and (kind := _kind(node.iter, "CallbacksMP")):
                    entry = wrapped.setdefault(kind, Wrapped())
                    entry.calls += _new(_calls(node, dotted(node.target)), entry.calls)


def _calls(node: ast.AST, name: str) -> list[Call]:
    """How a function or method of that name is called in a block."""
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return [Call.of(call) for call in calls if name in (dotted(call.func), _attribute(call))]


def _new(calls: list[Call], known: list[Call]) -> list[Call]:
    return [call for call in dict.fromkeys(calls) if call not in known]


def _kind(node: ast.AST, holder: str) -> str:
    names = [dotted(inner) for inner in ast.walk(node) if isinstance(inner, ast.Attribute)]
    return next((name.rpartition(".")[2] for name in names if f"{holder}." in name), "")
