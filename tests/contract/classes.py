"""Our classes and annotations: what of the host they derive from or mean."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

from . import holders
from .host import dotted
from .pack import File, OwnClass
from .values import UNKNOWN, Value

_SHAPELESS = "Any"
"""The annotation that leaves it to a name what it holds."""


class Classes:
    """Finds classes by the names that files use for them."""

    def __init__(self, roots: frozenset[str]) -> None:
        """`roots`: what can be imported from the host's folder."""
        self.roots = roots

    def bases(self, own: OwnClass) -> list[str]:
        """The classes of the host that one of ours derives from."""
        if own.node.name in holders.MIXED_INTO:
            return [holders.MIXED_INTO[own.node.name]]
        found = []
        for base in own.node.bases:
            inherited = self.own(own.file, dotted(base))
            found += self.bases(inherited) if inherited is not None else self.imported(own.file, dotted(base))
        return found

    def lineage(self, own: OwnClass | None) -> Iterator[OwnClass]:
        """A class of ours and those of ours that it derives from."""
        while own is not None:
            yield own
            bases = [self.own(own.file, dotted(base)) for base in own.node.bases]
            own = next(filter(None, bases), None)

    def own(self, file: File, name: str) -> OwnClass | None:
        """A class of ours, by a file's name for it."""
        found = file.pack.defined(file, name)
        return OwnClass(*found) if found is not None and isinstance(found[1], ast.ClassDef) else None

    def imported(self, file: File, name: str) -> list[str]:
        """What of the host a name is that a file imports at its top."""
        first, _, rest = name.partition(".")
        path = self.imports(file).get(first)
        return [".".join(filter(None, [path, rest]))] if path else []

    @functools.cache  # noqa: B019 (lives as long as a reading)
    def imports(self, file: File) -> dict[str, str]:
        """The names of the host in a file, wherever it imports them."""
        nodes = [node for node in ast.walk(file.tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        return {name: path for node in nodes for name, path in self.bound_by(node).items()}

    def bound_by(self, node: ast.Import | ast.ImportFrom) -> dict[str, str]:
        """The names that an import binds to something of the host."""
        if isinstance(node, ast.ImportFrom):
            if node.level or (node.module or "").partition(".")[0] not in self.roots:
                return {}
            return {entry.asname or entry.name: f"{node.module}.{entry.name}" for entry in node.names}
        found = {}
        for entry in node.names:
            root = entry.name.partition(".")[0]
            if root in self.roots:
                found[entry.asname or root] = entry.name if entry.asname else root
        return found

    def value(self, own: OwnClass, *, instance: bool) -> Value:
        """A class of ours, or an instance of it."""
        return Value(tuple(base + ("()" if instance else "") for base in self.bases(own)), own, settled=True)

    def annotated(self, file: File, annotation: ast.expr | None) -> Value:
        """What an annotation says; nothing where it leaves that open."""
        if annotation is None or _SHAPELESS in (getattr(node, "id", "") for node in ast.walk(annotation)):
            return UNKNOWN
        options = [annotation.left, annotation.right] if isinstance(annotation, ast.BinOp) else [annotation]
        for option in options:
            name = "" if isinstance(option, ast.Subscript) else dotted(option)
            own = self.own(file, name)
            if own is not None:
                return self.value(own, instance=True)
            paths = self.imported(file, name)
            if paths:
                return Value(tuple(f"{path}()" for path in paths), settled=True)
        return Value(settled=True)
