"""Finds the places where other packs insist on CUDA, by reading their source; nothing is imported or run."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from .findings import Finding, State, everywhere

MOST_FILES = 5000
LARGEST_FILE_BYTES = 2 << 20


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

    Args:
        folder: custom_nodes.
        own: a pack to leave out, by its resolved path.
    """
    places: list[Place] = []
    for pack in sorted(folder.iterdir()):
        if pack.resolve() == own or pack.name.startswith("."):
            continue
        for file in _sources(pack):
            name = file.relative_to(pack).as_posix() if file != pack else pack.name
            places += _places(file.read_text(encoding="utf-8", errors="replace"), pack.name, name)
    return places


def _sources(pack: Path) -> Iterator[Path]:
    """The pack's Python files, in order, without hidden folders such as a virtual environment."""
    files = [pack] if pack.suffix == ".py" else sorted(pack.rglob("*.py"))
    for file in files[:MOST_FILES]:
        hidden = any(part.startswith(".") for part in file.relative_to(pack).parts)
        if not hidden and file.stat().st_size <= LARGEST_FILE_BYTES:
            yield file


def _places(source: str, pack: str, file: str) -> Iterator[Place]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return  # not our business: the host reports it when it imports the pack
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _insists(node):
            yield Place(pack, file, node.lineno, ast.unparse(node)[:80])


def _insists(call: ast.Call) -> bool:
    """`x.cuda()`, and the constant "cuda" or "cuda:N" given as a device.

    `torch.cuda.is_available()` and the like are questions, not demands.
    """
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name == "cuda" and not call.args:
        return True
    device_arguments = [keyword.value for keyword in call.keywords if keyword.arg in ("device", "map_location")]
    if name in ("to", "device", "empty_cache", "set_device"):
        device_arguments += call.args[:1]
    return any(_is_cuda(argument) for argument in device_arguments)


def _is_cuda(node: ast.expr) -> bool:
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
