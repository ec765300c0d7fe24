"""Finds the places where other packs insist on CUDA, by reading their source; nothing is imported or run."""

from __future__ import annotations

import ast
import dataclasses
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .findings import Finding, State, everywhere

MOST_FILES = 5000
LARGEST_FILE_BYTES = 2 << 20

QUESTIONS = ("is_available", "device_count", "is_initialized", "is_bf16_supported", "get_arch_list")
"""Functions of torch.cuda that have an answer where there is no CUDA; every other one is a demand."""

_TAKE_A_DEVICE_FIRST = ("to", "device", "set_device", "autocast", "GradScaler", "Generator")
_DEVICE_ARGUMENTS = ("device", "map_location", "device_type")


@dataclasses.dataclass(frozen=True)
class Place:
    """One spot in one file."""

    pack: str
    file: str
    """Relative to the pack."""
    line: int
    code: str
    """The expression, shortened."""


def scan(folder: Path, *, own: Path | None = None) -> list[Place]:
    """Scans every pack (each a folder, a link to one, or a file) under a custom_nodes folder.

    What is not there or cannot be read has no places: ComfyUI cannot import it either.

    Args:
        folder: custom_nodes.
        own: a pack to leave out, by its resolved path.
    """
    places: list[Place] = []
    for pack in sorted(folder.glob("*")):
        if os.path.realpath(pack) == str(own) or pack.name.startswith("."):
            continue
        for file in _sources(pack):
            name = file.relative_to(pack).as_posix() if file != pack else pack.name
            try:
                source = file.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            places += [Place(pack.name, name, line, code[:80]) for line, code in sorted(_demands(source))]
    return places


def _sources(pack: Path) -> Iterator[Path]:
    """The pack's Python files, in order, without hidden folders such as a virtual environment."""
    files = [pack] if pack.suffix == ".py" and not os.path.isdir(pack) else sorted(pack.rglob("*.py"))
    for file in files[:MOST_FILES]:
        hidden = any(part.startswith(".") for part in file.relative_to(pack).parts)
        if not hidden and _is_small(file):
            yield file


def _is_small(file: Path) -> bool:
    try:
        facts = file.stat()
    except OSError:  # gone by now, a link to nothing, or in a folder that may only be listed
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size <= LARGEST_FILE_BYTES


def _demands(source: str) -> Iterator[tuple[int, str]]:
    """(line, code) of every place that insists on CUDA."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return  # not our business: the host reports it when it imports the pack
    for node in ast.walk(tree):
        if isinstance(node, ast.arguments):
            yield from _defaults(node)
        elif isinstance(node, (ast.Call, ast.IfExp, ast.Assign, ast.AnnAssign)) and _insists(node):
            yield node.lineno, ast.unparse(node)


def _defaults(arguments: ast.arguments) -> Iterator[tuple[int, str]]:
    """`def load(device="cuda")`"""
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = positional[len(positional) - len(arguments.defaults) :]
    pairs = [*zip(with_default, arguments.defaults, strict=True)]
    pairs += [(name, value) for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    for name, value in pairs:
        if "device" in name.arg.lower() and _is_cuda(value):
            yield value.lineno, f"{name.arg}={ast.unparse(value)}"


def _insists(node: ast.Call | ast.IfExp | ast.Assign | ast.AnnAssign) -> bool:
    """Whether this part of the source itself names CUDA as the device to use."""
    if isinstance(node, ast.Call):
        return _call_insists(node)
    if isinstance(node, ast.IfExp):  # "cuda" if torch.cuda.is_available() else "cpu": the CPU, beside an Intel GPU
        return _is_cuda(node.body) or _is_cuda(node.orelse)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return _is_cuda(node.value) and any("device" in _name(target).lower() for target in targets)


def _call_insists(call: ast.Call) -> bool:
    """`x.cuda(...)`, `torch.cuda.synchronize()`, and the constant "cuda" or "cuda:N" given as a device."""
    name, function = _name(call.func), call.func
    if isinstance(function, ast.Attribute):
        if name == "cuda":
            return True
        if _name(function.value) == "cuda" and isinstance(function.value, ast.Attribute):
            return name not in QUESTIONS
    devices = [keyword.value for keyword in call.keywords if keyword.arg in _DEVICE_ARGUMENTS]
    if name in _TAKE_A_DEVICE_FIRST:
        devices += call.args[:1]
    return any(map(_is_cuda, devices))


def _name(node: ast.expr) -> str:
    """The last part of a dotted name; empty for anything else."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_cuda(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.split(":")[0] == "cuda"


def findings(places: list[Place]) -> list[Finding]:
    """One finding a pack, with its first places."""
    by_pack: dict[str, list[Place]] = {}
    for place in places:
        by_pack.setdefault(place.pack, []).append(place)
    fix = everywhere("Ask its author for comfy.model_management.get_torch_device(); until then feed it from the CPU.")
    return [
        Finding(
            "pack-insists-on-cuda",
            State.WARNING,
            f"{pack} insists on CUDA in {len(found)} place{'s' if len(found) > 1 else ''}",
            "; ".join(f"{place.file}:{place.line} {place.code}" for place in found[:3]),
            fix,
        )
        for pack, found in sorted(by_pack.items())
    ]
