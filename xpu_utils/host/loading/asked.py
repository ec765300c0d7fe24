"""Which size the running prompt asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name

from ...forecast import Size
from ..prompts import current_graph

Graph = Mapping[str, Mapping[str, Any]]

_BATCH = ("batch_size", "video_frames")
"""SVD's frames are pictures of a batch."""


def asked_size() -> Size | None:
    """The largest that a node whose latent is used asks for; None where none says it in numbers."""
    graph = current_graph()
    used = {tuple(value) for node in graph.values() for value in node["inputs"].values() if _is_link(value)}
    sizes = [
        _size(graph, node["inputs"])
        for name, node in graph.items()
        if any((name, index) in used for index in _latents(node["class_type"]))
    ]
    return max(filter(None, sizes), key=lambda size: size.volume, default=None)


def _latents(kind: str) -> list[int]:
    """Which of a node's outputs are latents."""
    outputs = getattr(host_nodes.NODE_CLASS_MAPPINGS.get(kind), "RETURN_TYPES", ())
    return [index for index, output in enumerate(outputs) if output == "LATENT"]


def _size(graph: Graph, inputs: Mapping[str, Any]) -> Size | None:
    width, height, frames, *batch = (
        _number(graph, inputs.get(name)) for name in ("width", "height", "length", *_BATCH)
    )
    if width is None or height is None:
        return None
    return Size(width, height, frames, next(filter(None, batch), 1))


def _number(graph: Graph, value: Any) -> int | None:
    """A number that stands in an input, or in the node of a number that is linked to it."""
    if _is_link(value):
        value = graph.get(value[0], {}).get("inputs", {}).get("value")
    return value if isinstance(value, int) and value > 0 else None


def _is_link(value: Any) -> bool:
    """Whether an input is another node's output, by that node's id and the output's index."""
    return isinstance(value, list) and [*map(type, value)] == [str, int]
