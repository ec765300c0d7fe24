"""A workflow in ComfyUI's API format, and the values that jobs put into it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SEEDS = ("seed", "noise_seed")
"""Inputs that hold a seed."""


class BadJob(Exception):
    """What was asked for cannot be done with this workflow; one sentence."""


class Workflow:
    """The graph that every job starts from."""

    def __init__(self, nodes: Mapping[str, dict[str, Any]]) -> None:
        self.nodes = nodes

    @classmethod
    def read(cls, file: Path) -> Workflow:
        """Reads a file.

        Raises:
            BadJob: it cannot be read, or is none of the API format.
        """
        try:
            nodes = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BadJob(f"{file} cannot be read as a workflow ({error}), name one in the API format.") from error
        whole = isinstance(nodes, dict) and nodes and all(_is_node(node) for node in nodes.values())
        if not whole:
            raise BadJob(f"{file} is no workflow in the API format: save it with Workflow > Export (API).")
        return cls(nodes)

    def setting(self, name: str) -> tuple[str, str]:
        """Node id and input that a name means: "6.text", "Prompt.text" by the node's title, or "Prompt" alone.

        Raises:
            BadJob: it means none, or more than one.
        """
        node_name, dot, input_name = name.rpartition(".")
        of_input = self._find(node_name) if dot else None
        if of_input is not None and input_name in self.nodes[of_input]["inputs"]:
            return of_input, input_name
        node_id = self._find(name)
        if node_id is None and of_input is not None:
            raise BadJob(f"{name}: that node has the inputs {', '.join(self.nodes[of_input]['inputs'])}, name one.")
        if node_id is None:
            raise BadJob(f"{name}: the workflow has no such node, give an id or a title and an input as NODE.input.")
        values = [key for key, value in self.nodes[node_id]["inputs"].items() if not isinstance(value, list)]
        if len(values) != 1:
            raise BadJob(f"{name} has the inputs {', '.join(values) or 'of links only'}: name one, as {name}.input.")
        return node_id, values[0]

    def _find(self, name: str) -> str | None:
        if name in self.nodes:
            return name
        titled = [key for key, node in self.nodes.items() if _title(node) == name]
        if len(titled) > 1:
            raise BadJob(f"{name} is the title of the nodes {', '.join(titled)}: name one by its id.")
        return titled[0] if titled else None

    def value(self, name: str, given: object) -> Any:
        """What a job puts in for a setting: of the type that the workflow has there.

        Raises:
            BadJob: the setting is none, a link, or of another type.
        """
        node_id, input_name = self.setting(name)
        present = self.nodes[node_id]["inputs"][input_name]
        if isinstance(present, list):
            raise BadJob(f"{name} is given by node {present[0]}, set a value there.")
        if isinstance(given, str) and not _is_text(given):
            raise BadJob(f"{name}: {given!r} holds half a character, it cannot be written as UTF-8.")
        found = given
        if isinstance(given, str) and not isinstance(present, str):
            try:
                found = json.loads(given)
            except (ValueError, RecursionError):
                found = None
            # The editor writes 7.0 as 7.
            number = type(present) in (int, float)
            if type(found) not in ((int, float) if number else (type(present),)):
                found = None
        if found is None or (isinstance(found, float) and not math.isfinite(found)):
            raise BadJob(f"{name}: {given!r} is not like {present!r}, which the workflow has there.")
        return found

    def seeds(self) -> list[str]:
        """The settings that are seeds.

        Raises:
            BadJob: there are none.
        """
        found = [
            f"{node_id}.{name}"
            for node_id, node in self.nodes.items()
            for name in SEEDS
            if isinstance(node["inputs"].get(name), int)
        ]
        if not found:
            raise BadJob("The workflow has no seed of its own, so --seeds has nothing to set; use --set or --table.")
        return found

    def prompt(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The graph with a job's values, by "NODE.input" with ids."""
        nodes = copy.deepcopy(dict(self.nodes))
        for name, value in settings.items():
            node_id, _, input_name = name.rpartition(".")
            nodes[node_id]["inputs"][input_name] = value
        return nodes

    def texts(self, settings: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
        """Node's class, input and value of every text of a job, without the graph being made."""
        for node_id, node in self.nodes.items():
            for name, value in node["inputs"].items():
                text = settings.get(f"{node_id}.{name}", value)
                if isinstance(text, str):
                    yield node["class_type"], name, text


def _title(node: Mapping[str, Any]) -> object:
    meta = node.get("_meta")
    return meta.get("title") if isinstance(meta, dict) else None


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and isinstance(node.get("inputs"), dict) and isinstance(node.get("class_type"), str)
