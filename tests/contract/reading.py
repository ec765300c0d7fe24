"""Reads our code for touches: follows names from imports, annotations and `holders` through each function."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from . import holders
from .classes import Classes
from .expressions import Expressions, is_property
from .host import dotted
from .pack import File, Function, OwnClass, OwnFunction, Pack, signature
from .questions import asked_for, asks, forgiven
from .signatures import Call
from .touches import Kind, Touch
from .values import UNKNOWN, Scope, Value

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def read(pack: Pack, roots: Iterable[str]) -> list[Touch]:
    """Every touch of the pack on a host from whose folder these can be imported."""
    classes = Classes(frozenset(roots))
    found: dict[tuple[object, ...], Touch] = {}
    for file in pack.files.values():
        for touch in Reader(file, classes).read():
            found.setdefault((touch.kind, touch.path, touch.place, touch.call, touch.signature), touch)
    ours = _added(pack, classes)
    return [touch for touch in found.values() if touch.kind is Kind.OVERRIDE or touch.path not in ours]


def _added(pack: Pack, classes: Classes) -> set[str]:
    """The paths of what our classes add to the host's that they derive from."""
    nodes = [(file, node) for file in pack.files.values() for node in file.top.values()]
    own = [OwnClass(file, node) for file, node in nodes if isinstance(node, ast.ClassDef)]
    return {f"{base}().{name}" for each in own for base in classes.bases(each) for name in each.attributes}


class Reader:
    """Walks through one file: statements here, what is in them by `Expressions`."""

    def __init__(self, file: File, classes: Classes) -> None:
        self._file, self._classes = file, classes
        self._expressions = Expressions(file, classes, self._function)

    def read(self) -> list[Touch]:
        """The file's touches; none where it is not about the host."""
        folders = self._file.path.relative_to(self._file.pack.root).parts[:-1]
        if "host" in folders or self._classes.imports(self._file):
            body = self._file.tree.body
            outside = [node for node in body if not isinstance(node, (*_FUNCTIONS, ast.ClassDef))]
            self._block(body, Scope({}, asked_for=asked_for(self._file, outside)))
        return self._expressions.touches

    def _block(self, body: list[ast.stmt], scope: Scope) -> None:
        """Reads a block; what is defined further down in it may be used in functions above."""
        for statement in body:
            if isinstance(statement, _FUNCTIONS):
                scope.names[statement.name] = Value(function=OwnFunction.of(self._file, statement))
        for statement in body:
            self._statement(statement, scope)

    def _statement(self, node: ast.stmt, scope: Scope) -> None:
        expressions = self._expressions
        match node:
            case ast.Import() | ast.ImportFrom():
                self._import(node, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node, scope)
            case ast.ClassDef():
                self._class(node, scope)
            case ast.Assign():
                value = expressions.value(node.value, scope)
                for target in node.targets:
                    expressions.assign(target, node.value, value, scope)
            case ast.AnnAssign():
                value = expressions.value(node.value, scope) if node.value else UNKNOWN
                stated = self._classes.annotated(self._file, node.annotation)
                expressions.assign(node.target, node.value, stated if stated.paths or stated.own else value, scope)
            case ast.If():
                self._if(node, scope)
            case ast.For() | ast.AsyncFor():
                expressions.assign_each(node.target, node.iter, scope)
                self._block([*node.body, *node.orelse], scope)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    value = expressions.value(item.context_expr, scope)
                    if item.optional_vars is not None:
                        expressions.assign(item.optional_vars, None, UNKNOWN if value.paths else value, scope)
                self._block(node.body, scope)
            case ast.Try():
                self._try(node, scope)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        expressions.value(child, scope)
                    elif isinstance(child, ast.stmt):
                        self._statement(child, scope)

    def _import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for name, path in self._classes.bound_by(node).items():
            scope.names[name] = Value((path,))
            self._expressions.touch(Kind.USE, path, node, scope)
        for entry in node.names if isinstance(node, ast.Import) else ():
            if entry.name.partition(".")[0] in self._classes.roots:
                self._expressions.touch(Kind.USE, entry.name, node, scope)

    def _if(self, node: ast.If, scope: Scope) -> None:
        self._expressions.value(node.test, scope)
        guard = ast.unparse(node.test) if asks(self._file, node.test) else scope.guard
        narrowed = self._expressions.narrowed(node.test, scope)
        inside, outside = scope.inner(guard=guard), scope.inner(guard=guard)
        inside.names |= narrowed
        self._block(node.body, inside)
        self._block(node.orelse, outside)
        for branch in (outside, inside):
            scope.names |= {name: value for name, value in branch.names.items() if name not in narrowed}

    def _try(self, node: ast.Try, scope: Scope) -> None:
        caught = forgiven(node)
        inside = scope.inner(guard=f"except {caught}") if caught else scope
        self._block(node.body, inside)
        scope.names |= inside.names
        for body in (*(handler.body for handler in node.handlers), node.orelse, node.finalbody):
            self._block(body, scope)

    def _function(self, node: Function, scope: Scope) -> None:
        """Reads a function or lambda, in the scope around it."""
        self._stand_ins(node, scope)
        body = node.body if isinstance(node.body, list) else [ast.Expr(node.body)]
        asked = scope.asked_for | asked_for(self._file, body)
        inner = scope.inner(function=scope.qualified(node), asked_for=asked)
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            inner.names[argument.arg] = self._classes.annotated(self._file, argument.annotation)
        for rest in filter(None, (arguments.vararg, arguments.kwarg)):
            inner.names[rest.arg] = Value(settled=True)
        for default in filter(None, (*arguments.defaults, *arguments.kw_defaults)):
            self._expressions.value(default, scope)
        if scope.own is not None and arguments.args and arguments.args[0].arg in ("self", "cls"):
            first = arguments.args[0].arg
            inner.names[first] = self._classes.value(scope.own, instance=first == "self")
        self._block(body, inner)

    def _stand_ins(self, node: Function, scope: Scope) -> None:
        """`functools.wraps` of something of the host is on what stands in for it; `holders` knows some others."""
        taken = signature(self._file, node)
        for decorator in getattr(node, "decorator_list", []):
            self._expressions.value(decorator, scope)
            if isinstance(decorator, ast.Call) and dotted(decorator.func) == "functools.wraps":
                for path in self._expressions.quietly(decorator.args[0], scope).paths:
                    self._expressions.touch(Kind.STAND_IN, path, node, scope, signature=taken)
        if not isinstance(node, ast.Lambda):
            given, paths = holders.STANDS_IN.get(scope.qualified(node), (0, ()))
            for path in paths:
                self._expressions.touch(Kind.STAND_IN, path, node, scope, signature=taken.bound(Call(given)))

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        own = OwnClass(self._file, node)
        for outer in (*node.bases, *node.decorator_list):
            self._expressions.value(outer, scope)
        for base in self._classes.bases(own):
            for name, method in own.methods.items():
                if not is_property(method) and (name == "__call__" or not name.startswith("__")):
                    taken = signature(self._file, method).bound(Call(1))
                    self._expressions.touch(Kind.OVERRIDE, f"{base}().{name}", method, scope, signature=taken)
        scope.names[node.name] = self._classes.value(own, instance=False)
        self._block(node.body, scope.inner(own=own, function=""))
