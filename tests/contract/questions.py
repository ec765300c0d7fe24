"""What our code asks of the host before it uses it: feature detection, as it is written here."""

from __future__ import annotations

import ast

from .host import dotted
from .pack import File

FORGIVEN = frozenset({"ImportError", "ModuleNotFoundError", "AttributeError", "TypeError", "KeyError"})
"""What an `except` names that answers for a host without something."""

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def asks(file: File, test: ast.AST) -> bool:
    """Whether a condition asks what the host offers, itself or through a function of ours."""
    return any(isinstance(node, ast.Call) and _is_question(file, node) for node in ast.walk(test))


def asked_for(file: File, body: list[ast.stmt]) -> frozenset[str]:
    """The names that a block asks for."""
    found: set[str] = set()
    for node in (inner for statement in body for inner in ast.walk(statement)):
        if isinstance(node, ast.Call) and _is_question(file, node):
            found |= {text_of(file, argument) for argument in node.args}
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            found.add(text_of(file, node.left))
    return frozenset(found - {""})


def forgiven(node: ast.Try) -> str:
    """The first exception that a `try` catches for a host without something; empty where it catches none."""
    caught = [inner for handler in node.handlers if handler.type is not None for inner in ast.walk(handler.type)]
    return next((name.id for name in caught if isinstance(name, ast.Name) and name.id in FORGIVEN), "")


def text_of(file: File, node: ast.expr) -> str:
    """A string, written there or as a constant of ours; empty where it is neither."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    found = file.pack.defined(file, dotted(node))
    value = getattr(found[1], "value", None) if found else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _is_question(file: File, call: ast.Call) -> bool:
    if _is_direct_question(call):
        return True
    found = file.pack.defined(file, dotted(call.func))
    return found is not None and isinstance(found[1], _FUNCTIONS) and found[0].asks(found[1], _is_direct_question)


def _is_direct_question(call: ast.Call) -> bool:
    name = dotted(call.func)
    return name in ("hasattr", "inspect.signature") or (name == "getattr" and len(call.args) == 3)
