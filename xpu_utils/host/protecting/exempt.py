"""The way out for single nodes: those that the user names, by id or by type, are left to ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..prompts import current_node_id

_kinds: dict[str, str] = {}
"""Node id -> type, of the prompt that runs."""
_named: frozenset[str] = frozenset()


def begin(prompt: Mapping[str, Any], names: str) -> None:
    """Notes what the prompt that begins holds.

    Args:
        prompt: node id -> node, as ComfyUI executes it.
        names: ids and types of nodes to leave alone, separated by commas.
    """
    global _named
    _kinds.clear()
    _kinds.update({node_id: str(node.get("class_type")) for node_id, node in prompt.items()})
    _named = frozenset(name.strip() for name in names.split(",") if name.strip())


def is_exempt() -> bool:
    """Whether the node that runs in this thread was named."""
    if not _named:
        return False
    node_id = current_node_id()
    return node_id in _named or _kinds.get(node_id) in _named
