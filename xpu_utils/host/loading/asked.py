"""Which size the running prompt asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nodes as host_nodes  # ComfyUI's module: the pack itself is imported under another name

from ...forecast import Size
from ..prompts import current_graph, is_link

Graph = Mapping[str, Mapping[str, Any]]

_BATCH = ("batch_size", "video_frames")
"""SVD's frames are pictures of a batch."""


def asked_size() -> Size | None:
    """The largest that a node whose latent is used asks for; None where none says it in numbers."""
    graph = current_graph()
    used = {tuple(value) for node in graph.values() for value in node["inputs"].values() if is_link(value)}
    sizes = [
        _size(graph, name)
        for name, node in graph.items()
        if any((name, index) in used for index in _latents(node["class_type"]))
    ]
    return max(filter(None, sizes), key=lambda size: size.volume, default=None)


def _latents(kind: str) -> list[int]:
    """Which of a node's outputs are latents."""
    outputs = getattr(host_nodes.NODE_CLASS_MAPPINGS.get(kind), "RETURN_TYPES", ())
    return [index for index, output in enumerate(outputs) if output == "LATENT"]


def _size(graph: Graph, name: str) -> Size | None:
    """What a node asks for: its own numbers, or those of the latent that it takes, by as much as they are scaled."""
    scale, seen = 1.0, set[str]()
    while name in graph and name not in seen:
        seen.add(name)
        inputs = graph[name]["inputs"]
        width, height, frames, *batch = (
            _number(graph, inputs.get(field)) for field in ("width", "height", "length", *_BATCH)
        )
        if width is not None and height is not None:
            pictures = int(next(filter(None, batch), 1))
            return Size(round(width * scale), round(height * scale), int(frames) if frames else None, pictures)
        scale = min(host_nodes.MAX_RESOLUTION, scale * (_number(graph, inputs.get("scale_by")) or 1))
        links = [value for value in inputs.values() if is_link(value) and value[0] in graph]
        name = next((link[0] for link in links if link[1] in _latents(graph[link[0]]["class_type"])), "")
    return None


def _number(graph: Graph, value: Any) -> float | None:
    """A number that stands in an input, or in the node of a number that is linked to it; ComfyUI has no larger ones."""
    if is_link(value):
        value = graph.get(value[0], {}).get("inputs", {}).get("value")
    return value if isinstance(value, int | float) and 0 < value <= host_nodes.MAX_RESOLUTION else None
