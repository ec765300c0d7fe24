"""Reads what our expressions are: names, attributes and calls of the host, and what is given to it in its place."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Iterator, Mapping

from . import holders
from .classes import Classes
from .host import dotted
from .pack import File, Function, OwnClass, OwnFunction
from .questions import asks, text_of
from .signatures import NOTHING_GIVEN, NOTHING_TAKEN, Call, Signature
from .touches import OVERRIDDEN, Kind, Touch
from .values import UNKNOWN, Scope, Value, partial, returned

_SAME = {"copy.copy", "copy.deepcopy", "reversed", "list", "tuple", "sorted", "iter"}
"""Functions whose result is like what they are given."""
_NARROWING = {"isinstance", "computes_as"}
"""Functions that say of which classes their first argument is; the second is one of `xpu_utils/cpu/layers.py`."""


class Expressions:
    """What expressions in a file are; notes every touch in them."""

    def __init__(self, file: File, classes: Classes, read_lambda: Callable[[Function, Scope], None]) -> None:
        self._file, self._classes, self._read_lambda = file, classes, read_lambda
        self.touches: list[Touch] = []

    def value(self, node: ast.expr, scope: Scope) -> Value:
        """What an expression is."""
        match node:
            case ast.Constant(value=str() as text):
                return Value(text=text)
            case ast.Name():
                return self._name(node.id, scope)
            case ast.Attribute():
                return self._attribute(node, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.Subscript():
                owner, key = self.value(node.value, scope), self.value(node.slice, scope)
                for path in owner.paths if key.text else ():
                    self.touch(Kind.USE, f"{path}[{key.text}]", node, scope)
                return owner.then(f"[{key.text}]")
            case ast.Lambda():
                self._read_lambda(node, scope)
                return Value(function=OwnFunction.of(self._file, node))
            case ast.IfExp():
                self.value(node.test, scope)
                guard = ast.unparse(node.test) if asks(self._file, node.test) else scope.guard
                inner = scope.inner(guard=guard)
                inner.names |= self.narrowed(node.test, scope)
                first, second = self.value(node.body, inner), self.value(node.orelse, inner)
                return second if first == UNKNOWN else first
            case ast.BoolOp():
                return self._bool(node, scope)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self._comprehension(node, scope)
            case ast.Tuple():
                self._wrapper([self.value(entry, scope) for entry in node.elts], node, scope)
                return UNKNOWN
            case ast.NamedExpr():
                value = self.value(node.value, scope)
                self.assign(node.target, node.value, value, scope)
                return value
        for child in _children(node):
            self.value(child, scope)
        return UNKNOWN

    def quietly(self, node: ast.expr, scope: Scope) -> Value:
        """What an expression is whose touches were noted before."""
        before = len(self.touches)
        value = self.value(node, scope)
        del self.touches[before:]
        return value

    def _name(self, name: str, scope: Scope) -> Value:
        known = scope.names.get(name)
        if known is None:
            found = self._file.pack.defined(self._file, name)
            known = self._defined(*found) if found is not None else UNKNOWN
        return _by_convention(name, known, scope, {**holders.NAMES, **holders.VARIABLES})

    def _defined(self, file: File, node: ast.stmt) -> Value:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return Value(function=OwnFunction.of(file, node))
        if isinstance(node, ast.ClassDef):
            return self._classes.value(OwnClass(file, node), instance=False)
        return Value(text=text_of(file, getattr(node, "value", None) or ast.Constant(None)))

    def _attribute(self, node: ast.Attribute, scope: Scope) -> Value:
        owner = self.value(node.value, scope)
        for own in self._classes.lineage(owner.own):
            if node.attr in own.methods:
                return self._member(own, own.methods[node.attr])
            if node.attr in own.attributes:
                return _by_convention(node.attr, UNKNOWN, scope, holders.NAMES)
        overridden = ast.unparse(node.value).startswith("super(") and scope.function.endswith(f".{node.attr}")
        inner = dataclasses.replace(scope, guard=OVERRIDDEN) if overridden else scope
        for path in owner.paths:
            self.touch(Kind.USE, f"{path}.{node.attr}", node, inner)
        if owner.paths:
            return dataclasses.replace(owner.then(f".{node.attr}"), guard=inner.guard)
        found = self._file.pack.defined(self._file, dotted(node))
        return self._defined(*found) if found else _by_convention(node.attr, UNKNOWN, scope, holders.NAMES)

    def _member(self, own: OwnClass, method: ast.FunctionDef | ast.AsyncFunctionDef) -> Value:
        if is_property(method):
            return self._classes.annotated(own.file, method.returns)
        return Value(function=OwnFunction.of(own.file, method).bound(Call(1)))

    def _bool(self, node: ast.BoolOp, scope: Scope) -> Value:
        inner, answer = scope.inner(), UNKNOWN
        for operand in node.values:
            value = self.value(operand, inner)
            answer = value if answer == UNKNOWN else answer
            inner.names |= self.narrowed(operand, inner)
            if asks(self._file, operand):
                inner.guard = ast.unparse(operand)
        return answer

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp, scope: Scope) -> Value:
        inner = scope.inner()
        for part in node.generators:
            self.assign_each(part.target, part.iter, inner)
            for condition in part.ifs:
                self.value(condition, inner)
                inner.names |= self.narrowed(condition, inner)
        for result in [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]:
            self.value(result, inner)
        return UNKNOWN

    # -- calls

    def _call(self, node: ast.Call, scope: Scope) -> Value:
        name = dotted(node.func)
        if name in ("hasattr", "getattr", "setattr", "delattr") and len(node.args) > 1:
            return self._by_name(name, node, scope)
        if name == "super":
            return Value(tuple(f"{base}()" for base in self._classes.bases(scope.own))) if scope.own else UNKNOWN
        callee = UNKNOWN if name in _SAME or name == "functools.partial" else self.value(node.func, scope)
        values = [self.value(entry.value if isinstance(entry, ast.Starred) else entry, scope) for entry in node.args]
        for keyword in node.keywords:
            self.value(keyword.value, scope)
        if name in _SAME:
            return values[0] if values else UNKNOWN
        if name == "functools.partial":
            return partial(values[0], Call.of(node))
        if name == "importlib.import_module" and values[0].text.partition(".")[0] in self._classes.roots:
            self.touch(Kind.USE, values[0].text, node, scope)
            return Value((values[0].text,))
        self._put(name.rpartition(".")[2], node, values, scope)
        if isinstance(node.func, ast.Attribute):
            self._handed_over(node.func.attr, node, values, scope)
        return self._called(callee, node, scope)

    def _called(self, callee: Value, node: ast.Call, scope: Scope) -> Value:
        if callee.own is not None and not any(path.endswith("()") for path in callee.paths):
            made = self._classes.value(callee.own, instance=True)
            call = callee.own.methods.get("__call__")
            function = OwnFunction.of(callee.own.file, call).bound(Call(1)) if call is not None else None
            return dataclasses.replace(made, function=function)
        inner = dataclasses.replace(scope, guard=callee.guard or scope.guard)
        for path in callee.paths if callee.own is None else ():
            self.touch(Kind.CALL, path, node, inner, call=callee.given + Call.of(node))
        return callee.then("()") if callee.function is None else self._result(callee.function)

    def _result(self, function: OwnFunction) -> Value:
        """What a function of ours answers: the function that it makes, or what its annotation says."""
        made = returned(function)
        if made is not None:
            return Value(function=made)
        answer = self._classes.annotated(function.file, getattr(function.node, "returns", None))
        return answer if answer.paths or answer.own else UNKNOWN

    def _by_name(self, name: str, node: ast.Call, scope: Scope) -> Value:
        """`getattr` and its like, with a name that can be read."""
        owner, attribute, *rest = (self.value(entry, scope) for entry in node.args)
        if not attribute.text:
            return UNKNOWN
        asking = name == "hasattr" or (name == "getattr" and bool(rest))
        inner = dataclasses.replace(scope, guard=f"{name} asks for it") if asking else scope
        kind = Kind.SET if name == "setattr" else Kind.USE
        for path in owner.paths:
            self.touch(kind, f"{path}.{attribute.text}", node, inner)
        if name == "setattr":
            self._stand_in(owner, attribute.text, rest[0], node, scope)
        return owner.then(f".{attribute.text}") if name == "getattr" else UNKNOWN

    # -- what stands in

    def _put(self, name: str, node: ast.Call, values: list[Value], scope: Scope) -> None:
        """What the functions of `xpu_utils.host.hooks` write to the host."""
        given: dict[str, Value] = {}
        if name == "put_meanwhile":
            given = {entry.arg: self.quietly(entry.value, scope) for entry in node.keywords if entry.arg}
            owner = values[1]
        elif name in ("put", "put_for_good") and len(values) > 2:
            owner, attribute, ours = values[-3:] if name == "put" else values[1:4]
            given = {attribute.text: ours} if attribute.text else {}
        for attribute_name, value in given.items():
            for path in owner.paths:
                self.touch(Kind.SET, f"{path}.{attribute_name}", node, scope)
            self._stand_in(owner, attribute_name, value, node, scope)

    def _stand_in(self, owner: Value, name: str, value: Value, node: ast.expr, scope: Scope) -> None:
        if value.function is not None:
            for path in owner.paths:
                self.touch(Kind.STAND_IN, f"{path}.{name}", node, scope, signature=value.function.signature)

    def _handed_over(self, method: str, node: ast.Call, values: list[Value], scope: Scope) -> None:
        """Functions of ours that are given to a patcher: wrappers, callbacks and object patches."""
        if method in ("add_wrapper_with_key", "add_callback_with_key"):
            self._wrapper([values[0], values[-1]], node, scope)
        if method == "add_object_patch" and len(values) == 2:
            patcher = self.quietly(node.func.value, scope) if isinstance(node.func, ast.Attribute) else UNKNOWN
            owner, attribute = self._patched(node.args[0], patcher, scope)
            for path in owner.paths:
                self.touch(Kind.USE, f"{path}.{attribute}", node, scope)
            self._stand_in(owner, attribute, values[1], node, scope)

    def _patched(self, place: ast.expr, patcher: Value, scope: Scope) -> tuple[Value, str]:
        """What an object patch is put on, and its name there."""
        text = next((part for part in ast.walk(place) if isinstance(part, ast.JoinedStr)), None)
        if text is None:
            name = text_of(self._file, place)
            return (patcher.then(".model"), name) if name else (UNKNOWN, "")
        named, attribute = text.values[0], text_of(self._file, text.values[-1]).removeprefix(".")
        if not isinstance(named, ast.FormattedValue):
            return UNKNOWN, ""
        return scope.names.get(self.quietly(named.value, scope).names, UNKNOWN), attribute

    def _wrapper(self, values: list[Value], node: ast.expr, scope: Scope) -> None:
        """A kind of wrapper or callback beside a function of ours."""
        if len(values) != 2 or values[1].function is None:
            return
        for path in values[0].paths:
            holder, _, kind = path.rpartition(".")
            if holder.endswith(("WrappersMP", "CallbacksMP")):
                executor = Call(1 if holder.endswith("WrappersMP") else 0)
                self.touch(Kind.WRAPPER, kind, node, scope, signature=values[1].function.signature.bound(executor))

    # -- names

    def assign(self, target: ast.expr, source: ast.expr | None, value: Value, scope: Scope) -> None:
        """Gives a target its value; `source` is where that is written."""
        if isinstance(target, (ast.Tuple, ast.List)):
            parts = source.elts if isinstance(source, ast.Tuple) and len(source.elts) == len(target.elts) else ()
            for index, entry in enumerate(target.elts):
                part = self.quietly(parts[index], scope) if parts else UNKNOWN
                self.assign(entry, parts[index] if parts else None, part, scope)
        elif isinstance(target, ast.Name):
            scope.names[target.id] = value
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value, scope)
            lineage = self._classes.lineage(owner.own)
            if not any(target.attr in {*own.attributes, *own.methods} for own in lineage):
                for path in owner.paths:
                    self.touch(Kind.SET, f"{path}.{target.attr}", target, scope)
                self._stand_in(owner, target.attr, value, target, scope)
        else:
            self.value(target, scope)

    def assign_each(self, target: ast.expr, iterated: ast.expr, scope: Scope) -> None:
        """Gives a target what is iterated over."""
        self.assign(target, None, self.value(iterated, scope).then("[]"), scope)
        if isinstance(target, ast.Tuple) and ast.unparse(iterated).endswith(".named_modules()"):
            name, module = target.elts
            assert isinstance(name, ast.Name)
            scope.names[name.id] = Value(names=dotted(module))

    def narrowed(self, test: ast.expr, scope: Scope) -> dict[str, Value]:
        """What is said of the classes of names where a condition holds."""
        if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
            return {name: value for part in test.values for name, value in self.narrowed(part, scope).items()}
        if not (isinstance(test, ast.Call) and dotted(test.func) in _NARROWING and len(test.args) == 2):
            return {}
        kinds = test.args[1].elts if isinstance(test.args[1], ast.Tuple) else [test.args[1]]
        values = [self.quietly(kind, scope) for kind in kinds]
        paths = tuple(f"{path}()" for value in values for path in value.paths)
        own = values[0].own if len(values) == 1 else None
        return {test.args[0].id: Value(paths, own, settled=True)} if isinstance(test.args[0], ast.Name) else {}

    def touch(
        self,
        kind: Kind,
        path: str,
        node: ast.AST,
        scope: Scope,
        *,
        call: Call = NOTHING_GIVEN,
        signature: Signature = NOTHING_TAKEN,
    ) -> None:
        """Notes a touch."""
        line = getattr(node, "lineno", 0)
        guards = (scope.asked_for, scope.guard)
        self.touches.append(Touch(kind, path, self._file.name, line, *guards, call, signature))


def _by_convention(name: str, known: Value, scope: Scope, table: Mapping[str, str]) -> Value:
    """What a name holds: what is known of it, unless `holders` knows better, or what such names hold."""
    exception = holders.EXCEPTIONS.get(scope.function, {}).get(name)
    if known.settled or (exception is None and known != UNKNOWN):
        return known
    path = table.get(name.strip("_"), "") if exception is None else exception
    return Value((path,)) if path else UNKNOWN


def _children(node: ast.AST) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield child
        else:
            yield from _children(child)


def is_property(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a method is asked for like an attribute."""
    decorators = [ast.unparse(entry) for entry in method.decorator_list]
    return any("property" in decorator or decorator.endswith(".setter") for decorator in decorators)
