"""Runs templates on the real server, with our nodes and tiny models, on a simulated card."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.harness.client import Client, Result
from tests.harness.hosts import ROOT, host_environment
from tests.harness.server import PACK_NAME
from tests.harness.simulated import simulated_server
from tests.harness.swapped import BYPASSED, graphs
from tests.harness.workflows import exchanged

from .inputs import write_inputs
from .smaller import NoStandIn, Prompt, smaller, stand_ins

Workflow = Mapping[str, Any]
Answers = Iterator[tuple[str, str]]
EDITORS = frozenset({"MarkdownNote", "Note", "Reroute", "PrimitiveNode"})
"""Nodes that only the editor knows."""
CARD = {"devices": ["arc-b580"]}
PACKS = {PACK_NAME: ROOT, "tiny": Path(__file__).with_name("tiny_pack")}
LIMIT_S = 240


def write_models(host: Path, folder: Path, prompts: Iterable[Prompt | str]) -> None:
    """Has a host's code write the tiny files that prompts load; one that is a text cannot be sent.

    Raises:
        subprocess.CalledProcessError: it ended otherwise than by writing.
    """
    names = set().union(*(stand_ins(prompt) for prompt in prompts if not isinstance(prompt, str)))
    command = [sys.executable, "-m", "tests.templates.write", str(host), str(folder), *sorted(names)]
    subprocess.run(command, cwd=ROOT, env=host_environment(), check=True)


def ran(workflows: Mapping[str, Workflow], prompts: Mapping[str, Prompt | str], host: Path, base: Path) -> Answers:
    """Why each template does not run; an empty text where it does.

    Args:
        prompts: of the workflows, as the editor sends them, or why it cannot.
        base: the server's folder, with the tiny files in `models`.
    """
    with simulated_server(base, CARD, host=host, packs=PACKS) as (server, _):
        known = server.client.get("/object_info")
        for name, prompt in prompts.items():
            why = lacking(workflows[name], known) or (prompt if isinstance(prompt, str) else "")
            yield name, why or _why_not(server.client, known, prompt, base)


def lacking(workflow: Workflow, known: Mapping[str, Any]) -> str:
    """Which of a template's nodes a ComfyUI lacks, or only hands on to a service; empty where it has all."""
    every = list(graphs(workflow))
    types = {node["type"] for graph in every for node in graph["nodes"] if node.get("mode") not in BYPASSED}
    absent = types - known.keys() - EDITORS - {graph.get("id") for graph in every}
    remote = {name for name in types & known.keys() if known[name].get("api_node")}
    if absent:
        return f"ComfyUI has no {', '.join(sorted(absent))}"
    return f"{', '.join(sorted(remote))} asks a service" if remote else ""


def _why_not(client: Client, known: Mapping[str, Any], prompt: Prompt, base: Path) -> str:
    try:
        small = smaller(prompt, base / "models", known)
    except NoStandIn as reason:
        return str(reason)
    write_inputs(small, base / "input")
    why = _failed(client, exchanged(small))
    if why and (stock := _failed(client, small)):
        return f"stock ComfyUI does not either: {stock}"
    return why


def _failed(client: Client, prompt: Prompt) -> str:
    try:
        result = client.run(prompt, timeout_s=LIMIT_S)
    except TimeoutError:
        client.post("/interrupt", {})
        return f"did not end in {LIMIT_S} s"
    return "" if result.error is None else _error(result)


def _error(result: Result) -> str:
    error = result.error or {}
    if "node_type" in error:
        return f"{error['node_type']}: {result.message.strip().splitlines()[0]}"[:300]
    nodes = error.get("node_errors") or {}
    told = {
        f"{node['class_type']}: {wrong['message']} {wrong['details']}"
        for node in nodes.values()
        for wrong in node["errors"]
    }
    return "; ".join(sorted(told))[:300] or result.message[:300]
