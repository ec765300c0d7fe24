"""`python -m xpu_utils templates FOLDER`: which workflows the switch serves wholly, and what it leaves to ComfyUI."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

SERVED = frozenset(
    (
        *("MODEL", "CLIP", "VAE", "CLIP_VISION", "CONTROL_NET", "UPSCALE_MODEL", "LATENT_UPSCALE_MODEL"),
        *("AUDIO_ENCODER", "MODEL_PATCH", "STYLE_MODEL", "GLIGEN", "BACKGROUND_REMOVAL", "MOGE_MODEL"),
        *("DA3_MODEL", "INTERP_MODEL", "OPTICAL_FLOW"),
    )
)
"""Types of ComfyUI's links whose models are placed, go with one that is, or have their calls repeated."""
LEFT_ALONE = frozenset(("SAM3D_BODY_MODEL",))
"""Types of models that have no touch: their nodes run as ComfyUI runs them."""
LEFT_ALONE_BY = {
    **dict.fromkeys(("Trellis2Conditioning", "Pixal3DConditioning", "TripoSplatConditioning"), "CLIP_VISION"),
    **dict.fromkeys(("VaeDecodeShapeTrellis", "VaeDecodeTextureTrellis", "VaeDecodeStructureTrellis2"), "VAE"),
    **dict.fromkeys(("Trellis2UpsampleStage", "VAEDecodeTripoSplat", "TripoSplatSamplingPreview"), "VAE"),
}
"""Nodes that use a model of a served type in a way that has no touch."""

_BYPASSED = (2, 4)
"""Modes of nodes that do not run: muted, bypassed."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("templates", help="say which workflows the switch serves")
    parser.add_argument("folder", type=Path, help="where the workflows are, as .json")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> tuple[int, str]:
    if not arguments.folder.is_dir():
        return 2, f"templates: {arguments.folder} is not a folder, name one that holds workflows."
    return 0, as_text(*judged(sorted(arguments.folder.rglob("*.json"))))


def judged(files: Iterable[Path]) -> tuple[dict[str, list[str]], list[str]]:
    """Workflow -> what is left alone in it, of those that load models on this machine; and files that are no JSON."""
    found: dict[str, list[str]] = {}
    damaged: list[str] = []
    for file in files:
        try:
            workflow = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            damaged.append(file.name)
            continue
        nodes = list(_nodes(workflow)) if isinstance(workflow, dict) else []
        kinds = {kind for node in nodes for kind in _loaded(node)}
        if kinds:
            by_node = {LEFT_ALONE_BY[node["type"]] for node in nodes if node["type"] in LEFT_ALONE_BY}
            found[file.stem] = sorted((kinds & LEFT_ALONE) | by_node)
    return found, damaged


def _nodes(workflow: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes that run, in the workflow and in its subgraphs."""
    for graph in (workflow, *((workflow.get("definitions") or {}).get("subgraphs") or ())):
        yield from (node for node in graph.get("nodes") or () if node.get("mode") not in _BYPASSED)


def _loaded(node: Mapping[str, Any]) -> Iterator[str]:
    """The types of the models that a node loads: it is given none."""
    known = SERVED | LEFT_ALONE
    given = {str(entry["type"]) for entry in node.get("inputs") or () if entry.get("link") is not None}
    if not given & known:
        yield from (kind for kind in (str(entry["type"]) for entry in node.get("outputs") or ()) if kind in known)


def as_text(found: Mapping[str, list[str]], damaged: Iterable[str] = ()) -> str:
    """A line for each file that cannot be read and each workflow that is not wholly served, and the counts."""
    reasons = Counter(kind for kinds in found.values() for kind in kinds)
    lines = [f"{name}: cannot be read as JSON, left out" for name in damaged]
    lines += [f"{name}: {', '.join(kinds)} left to ComfyUI" for name, kinds in found.items() if kinds]
    served = sum(not kinds for kinds in found.values())
    share = f" ({served / len(found):.1%})" if found else ""
    lines.append(f"{served} of {len(found)} workflows that load models here are wholly served{share}.")
    lines += [f"{count} x {kind}" for kind, count in reasons.most_common()]
    return "\n".join(lines)
