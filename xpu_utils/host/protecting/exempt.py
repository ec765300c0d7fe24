"""The way out for single nodes: those that the user names, by id or by type, are left to ComfyUI."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from comfy_execution.progress import get_progress_state

from ..prompts import current_node_id

_named: frozenset[str] = frozenset()


def leave_alone(names: str) -> None:
    """Has these nodes be left alone from now on, and no others: ids and types, separated by commas."""
    global _named
    _named = frozenset(name.strip() for name in names.split(",") if name.strip())


def is_exempt() -> bool:
    """Whether the node that runs in this thread was named, or one that it is inside of."""
    return bool(_named) and not _named.isdisjoint(_names_of(current_node_id()))


def _names_of(node_id: str | None) -> Iterator[str]:
    """A node's id and type, its subgraph's ("12:3" is 3 in 12), and those of the node that made it as it ran."""
    prompt = get_progress_state().dynprompt
    while node_id:
        yield from itertools.accumulate(node_id.split(":"), "{}:{}".format)
        if prompt.has_node(node_id):
            yield str(prompt.get_node(node_id)["class_type"])
        node_id = prompt.get_parent_node_id(node_id)
